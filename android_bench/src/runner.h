/* What the parts of coronet-runner share. One model, one back end, one process. */
#ifndef CORONET_RUNNER_H
#define CORONET_RUNNER_H

#include <stddef.h>
#include <stdint.h>

/* Counts changes of arguments and of what is timed. coronet-deploy refuses older ones
   (bench/outdated.py), and finds this number in the program by the text of its header line. */
#define RUNNER_VERSION "2"

/* Exit statuses; README.md lists them. */
enum { STATUS_USAGE = 2, STATUS_LIBRARY = 3, STATUS_DELEGATE = 4, STATUS_RUNTIME = 5 };

#define MOST_OPTIONS 32
#define MOST_THREADS 1024
#define MOST_DIMENSIONS 8

/* How long to repeat: until `most` are done, or `seconds` (0: no bound) are over and `least` are
   done. */
typedef struct {
  long least, most;
  double seconds;
} Bounds;

typedef struct {
  const char *runtime, *library, *model, *backend, *backend_library, *input, *output;
  const char *keys[MOST_OPTIONS], *values[MOST_OPTIONS];
  int options;
  int threads;
  const char *cpu_mask;
  Bounds warmup, samples;
  long frequency_every;
} Arguments;

typedef struct {
  char name[128];
  char dtype[16];
  int64_t shape[MOST_DIMENSIONS];
  int rank;
  size_t bytes;
} Tensor;

/* A loaded model. Its functions end the process by `fail` when they cannot do what is asked. What
   `write_input` is given stays where it is. */
typedef struct Session {
  Tensor input, output;
  char runtime_version[64];
  long nodes, nodes_taken, partitions; /* -1: the runtime does not say */
  int fully_accelerated;               /* -1: the runtime does not say */
  int transfers; /* invoke also copies the input in and waits for the output */
  int64_t placement_ns; /* taken by a session that only told who runs what; 0: none was made */
  void (*write_input)(const void *bytes);
  void (*invoke)(void);
  void (*read_output)(void *bytes);
} Session;

void open_litert(const Arguments *arguments, void *library, Session *session);
void open_tflite(const Arguments *arguments, void *library, Session *session);
void open_onnx(const Arguments *arguments, void *library, Session *session);

/* Print an error as the protocol's last line and on stderr, and end with `status`. */
void fail(int status, const char *code, const char *format, ...)
    __attribute__((noreturn, format(printf, 3, 4)));

/* Refuse what was given for a back end, `who`, that has no way to take it. */
void refuse_options(const Arguments *arguments, const char *who);
void refuse_library(const Arguments *arguments, const char *who);

/* CLOCK_MONOTONIC. */
int64_t now_ns(void);

/* Return a function of a library, or fail. ISO C has no conversion of a pointer to a function. */
typedef void (*Function)(void);
Function symbol(void *library, const char *name);
Function optional_symbol(void *library, const char *name);

/* Return the bytes of a tensor of `shape` of a type that is `size` bytes wide. */
size_t tensor_bytes(const Tensor *tensor, size_t size);

#endif
