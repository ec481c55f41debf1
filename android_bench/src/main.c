/* coronet-runner: one model on one back end, its samples as lines of JSON (README.md). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "process.h"
#include "runner.h"
#include "text.h"
#include "whole.h"

static volatile sig_atomic_t interrupted;

/* Where our lines go: what was stdout. Runtimes and drivers that write there write to stderr. */
static FILE *lines;

static void claim_stdout(void) {
  /* Lines leave in blocks: a write after every sample would be measured with the next one. */
  static char buffer[1 << 20];
  int ours = dup(STDOUT_FILENO);
  lines = ours < 0 ? NULL : fdopen(ours, "w");
  if (lines == NULL || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) {
    fprintf(stderr, "coronet-runner: no stdout: %s\n", strerror(errno));
    _exit(STATUS_RUNTIME);
  }
  setvbuf(lines, buffer, _IOFBF, sizeof buffer);
}

static void interrupt(int number) {
  (void)number;
  interrupted = 1;
}

int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* End, all written. Runtimes' own tear-down is not ours to wait for, and some crash in it. */
static void __attribute__((noreturn)) leave(int status) {
  errno = EIO; /* of what failed before and not now, no more is known */
  fflush(lines);
  if (ferror(lines)) {
    fprintf(stderr, "coronet-runner: stdout did not take all lines: %s\n", strerror(errno));
    if (status == 0) status = STATUS_RUNTIME;
  }
  fflush(NULL);
  _exit(status);
}

void fail(int status, const char *code, const char *format, ...) {
  char message[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  for (char *c = message; *c; ++c) {
    if (*c == '\n') *c = ' ';
  }
  fprintf(lines, "{\"kind\":\"error\",\"code\":\"%s\",\"message\":", code);
  print_string(lines, message);
  fprintf(lines, "}\n");
  fprintf(stderr, "coronet-runner: %s\n", message);
  leave(status);
}

void refuse_options(const Arguments *a, const char *who) {
  if (a->options)
    fail(STATUS_USAGE, "usage", "--backend-option %s: %s takes no options", a->keys[0], who);
}

void refuse_library(const Arguments *a, const char *who) {
  if (a->backend_library)
    fail(STATUS_USAGE, "usage", "--backend-library %s: %s takes none", a->backend_library, who);
}

Function optional_symbol(void *library, const char *name) {
  Function function = NULL;
  void *found = dlsym(library, name);
  memcpy(&function, &found, sizeof function);
  return function;
}

Function symbol(void *library, const char *name) {
  Function function = optional_symbol(library, name);
  if (function == NULL) fail(STATUS_LIBRARY, "symbol", "the runtime library has no %s", name);
  return function;
}

size_t tensor_bytes(const Tensor *tensor, size_t size) {
  size_t count = size;
  for (int i = 0; i < tensor->rank; ++i) {
    if (tensor->shape[i] <= 0)
      fail(STATUS_USAGE, "shape", "tensor %s has no fixed shape", tensor->name);
    if (__builtin_mul_overflow(count, (size_t)tensor->shape[i], &count))
      fail(STATUS_USAGE, "shape", "tensor %s is larger than memory can be", tensor->name);
  }
  return count;
}

/* Arguments ------------------------------------------------------------------------------- */

static const char USAGE[] =
    "coronet-runner --runtime tflite|onnx --library FILE --model FILE [--backend "
    "cpu|gpu|nnapi|external]\n"
    "  [--backend-library FILE] [--backend-option KEY=VALUE]... [--threads N] [--cpu-mask HEX]\n"
    "  [--warmup-runs N] [--warmup-seconds S] [--runs N] [--runs-least N] [--seconds S]\n"
    "  [--input FILE] [--output FILE] [--frequency-every K]\n";

static long whole(const char *flag, const char *text, long least) {
  char *end;
  errno = 0;
  long value = strtol(text, &end, 10);
  if (errno || *text == 0 || *end || value < least)
    fail(STATUS_USAGE, "usage", "%s %s: not a whole number of at least %ld", flag, text, least);
  return value;
}

static double real(const char *flag, const char *text) {
  char *end;
  double value = strtod(text, &end);
  if (*text == 0 || *end || !(value >= 0) || isinf(value))
    fail(STATUS_USAGE, "usage", "%s %s: not a number of seconds", flag, text);
  return value;
}

static Arguments parse(int count, char **words) {
  Arguments a = {.backend = "cpu",
                 .threads = 1,
                 .warmup = {.least = 1, .most = 5},
                 .samples = {.least = 1, .most = 50}};
  const struct {
    const char *flag;
    const char **text;
  } texts[] = {
      {"--runtime", &a.runtime}, {"--library", &a.library},
      {"--model", &a.model},     {"--backend", &a.backend},
      {"--input", &a.input},     {"--backend-library", &a.backend_library},
      {"--output", &a.output},   {"--cpu-mask", &a.cpu_mask},
  };
  for (int i = 1; i < count; i += 2) {
    const char *flag = words[i], *value = words[i + 1];
    size_t known = 0;
    if (!strcmp(flag, "--version")) {
      fprintf(lines, "coronet-runner %s\n", RUNNER_VERSION);
      exit(0);
    }
    if (!strcmp(flag, "--help")) {
      fputs(USAGE, lines);
      exit(0);
    }
    if (value == NULL) fail(STATUS_USAGE, "usage", "%s needs a value", flag);
    while (known < sizeof texts / sizeof *texts && strcmp(texts[known].flag, flag)) ++known;
    if (known < sizeof texts / sizeof *texts) {
      *texts[known].text = value;
    } else if (!strcmp(flag, "--backend-option")) {
      char *equals = strchr(words[i + 1], '=');
      if (equals == NULL || equals == value)
        fail(STATUS_USAGE, "usage", "%s %s: not KEY=VALUE", flag, value);
      if (a.options == MOST_OPTIONS) fail(STATUS_USAGE, "usage", "more than %d options", a.options);
      *equals = 0;
      a.keys[a.options] = value;
      a.values[a.options++] = equals + 1;
    } else if (!strcmp(flag, "--threads")) {
      long threads = whole(flag, value, 1);
      if (threads > MOST_THREADS)
        fail(STATUS_USAGE, "usage", "%s %s: at most %d", flag, value, MOST_THREADS);
      a.threads = (int)threads;
    } else if (!strcmp(flag, "--warmup-runs")) {
      a.warmup.most = whole(flag, value, 0);
    } else if (!strcmp(flag, "--runs")) {
      a.samples.most = whole(flag, value, 1);
    } else if (!strcmp(flag, "--runs-least")) {
      a.samples.least = whole(flag, value, 1);
    } else if (!strcmp(flag, "--frequency-every")) {
      a.frequency_every = whole(flag, value, 0);
    } else if (!strcmp(flag, "--warmup-seconds")) {
      a.warmup.seconds = real(flag, value);
    } else if (!strcmp(flag, "--seconds")) {
      a.samples.seconds = real(flag, value);
    } else {
      fail(STATUS_USAGE, "usage", "unknown argument %s", flag);
    }
  }
  if (!a.runtime || !a.library || !a.model)
    fail(STATUS_USAGE, "usage", "--runtime, --library and --model are needed");
  if (strcmp(a.runtime, "tflite") && strcmp(a.runtime, "onnx"))
    fail(STATUS_USAGE, "usage", "--runtime %s: tflite or onnx", a.runtime);
  if (strcmp(a.backend, "cpu") && strcmp(a.backend, "gpu") && strcmp(a.backend, "nnapi") &&
      strcmp(a.backend, "external"))
    fail(STATUS_USAGE, "usage", "--backend %s: cpu, gpu, nnapi or external", a.backend);
  return a;
}

/* Files ------------------------------------------------------------------------------------ */

static void *read_whole(const char *path, size_t bytes) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) fail(STATUS_USAGE, "input", "cannot read %s: %s", path, strerror(errno));
  void *data = malloc(bytes);
  if (data == NULL) fail(STATUS_RUNTIME, "memory", "out of memory");
  size_t held = fread(data, 1, bytes, file);
  if (ferror(file)) fail(STATUS_USAGE, "input", "cannot read %s: %s", path, strerror(errno));
  int more = held == bytes && fgetc(file) != EOF;
  fclose(file);
  if (held != bytes || more)
    fail(STATUS_USAGE, "input", "%s has %s bytes than the %zu of the model's input", path,
         more ? "more" : "fewer", bytes);
  return data;
}

/* A file gets its name whole. A device or a pipe stays what it is, and is given the bytes. */
static void write_whole(const char *path, const void *data, size_t bytes) {
  char temporary[PATH_MAX];
  struct stat status;
  int is_file = stat(path, &status) || S_ISREG(status.st_mode);
  if (snprintf(temporary, sizeof temporary, "%s.%ld.tmp", path, (long)getpid()) >=
      (int)sizeof temporary)
    fail(STATUS_USAGE, "output", "%s is too long a path", path);
  FILE *file = fopen(is_file ? temporary : path, "wb");
  if (file == NULL) fail(STATUS_USAGE, "output", "cannot write %s: %s", path, strerror(errno));
  int written = fwrite(data, 1, bytes, file) == bytes;
  written = fclose(file) == 0 && written;
  if (!written || (is_file && rename(temporary, path))) {
    int reason = errno;
    if (is_file) unlink(temporary);
    fail(STATUS_USAGE, "output", "cannot write %s: %s", path, strerror(reason));
  }
}

/* Refuse what no runtime can read before one tries: some crash over it. Looked at where it lies: a
   copy would be measured as the process's memory. */
static void check_model(const char *path, const char *runtime) {
  struct stat status;
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0 || fstat(file, &status))
    fail(STATUS_USAGE, "model", "cannot read %s: %s", path, strerror(errno));
  if (!S_ISREG(status.st_mode)) fail(STATUS_USAGE, "model", "cannot read %s: not a file", path);
  if (status.st_size == 0) fail(STATUS_USAGE, "model", "%s is empty", path);
  size_t size = (size_t)status.st_size;
  void *bytes = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);
  if (bytes == MAP_FAILED)
    fail(STATUS_USAGE, "model", "cannot read %s: %s", path, strerror(errno));
  close(file);
  int tflite = is_tflite(bytes, size);
  if ((strcmp(runtime, "tflite") == 0) != tflite)
    fail(STATUS_USAGE, "model", "%s is %sa TFLite file", path, tflite ? "" : "not ");
  if (tflite && !is_whole_tflite(bytes, size))
    fail(STATUS_USAGE, "model", "reading the model: %s is not whole", path);
  munmap(bytes, size);
}

/* Lines ------------------------------------------------------------------------------------ */

static void print_tensor(const char *key, const Tensor *tensor) {
  fprintf(lines, ",\"%s\":{\"name\":", key);
  print_string(lines, tensor->name);
  fprintf(lines, ",\"dtype\":\"%s\",\"shape\":[", tensor->dtype);
  for (int i = 0; i < tensor->rank; ++i)
    fprintf(lines, "%s%" PRId64, i ? "," : "", tensor->shape[i]);
  fprintf(lines, "],\"bytes\":%zu}", tensor->bytes);
}

static void print_count(const char *key, long value) {
  if (value < 0) {
    fprintf(lines, ",\"%s\":null", key);
  } else {
    fprintf(lines, ",\"%s\":%ld", key, value);
  }
}

static void print_header(const Arguments *a, const Session *session, int64_t load_ns) {
  char allowed[256];
  struct stat status;
  allowed_cpus(allowed, sizeof allowed);
  if (stat(a->model, &status)) status.st_size = 0;
  fprintf(lines,
          "{\"kind\":\"header\",\"version\":\"" RUNNER_VERSION "\",\"protocol\":1,\"runtime\":");
  print_string(lines, a->runtime);
  fprintf(lines, ",\"runtime_version\":");
  print_string(lines, session->runtime_version);
  fprintf(lines, ",\"model_bytes\":%lld", (long long)status.st_size);
  print_tensor("input", &session->input);
  print_tensor("output", &session->output);
  fprintf(lines, ",\"backend\":");
  print_string(lines, a->backend);
  fprintf(lines, ",\"threads\":%d", a->threads);
  print_count("nodes_taken", session->nodes_taken);
  print_count("nodes", session->nodes);
  print_count("partitions", session->partitions);
  fprintf(lines, ",\"fully_accelerated\":%s",
          session->fully_accelerated < 0 ? "null"
          : session->fully_accelerated   ? "true"
                                         : "false");
  fprintf(lines, ",\"transfers\":%s", session->transfers ? "true" : "false");
  fprintf(lines, ",\"cpus_allowed_list\":");
  print_string(lines, allowed);
  fprintf(lines, ",\"pid\":%ld,\"load_ns\":%" PRId64 "}\n", (long)getpid(), load_ns);
}

static int is_over(const Bounds *bounds, long done, int64_t taken_ns) {
  return done >= bounds->most || (bounds->seconds > 0 && done >= bounds->least &&
                                  (double)taken_ns > bounds->seconds * 1e9);
}

/* Run the model within `bounds`, a line of `kind` each time; every `frequency_every` of them (0:
   none) reads the cpu's frequency. */
static long measure(const Session *session, const char *kind, Bounds bounds, long frequency_every) {
  int64_t begun = now_ns();
  long done = 0;
  while (!interrupted) {
    int64_t started = now_ns();
    if (is_over(&bounds, done, started - begun)) break;
    session->invoke();
    int64_t taken = now_ns() - started;
    int cpu = sched_getcpu();
    long khz = frequency_every && done % frequency_every == 0 ? frequency_khz(cpu) : -1;
    fprintf(lines, "{\"kind\":\"%s\",\"t\":%" PRId64 ",\"ns\":%" PRId64 ",\"cpu\":%d", kind,
            started, taken, cpu);
    print_count("khz", khz);
    fprintf(lines, "}\n");
    ++done;
  }
  return done;
}

int main(int count, char **words) {
  claim_stdout();
  Arguments a = parse(count, words);
  struct sigaction action = {.sa_handler = interrupt};
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  pin(a.cpu_mask);
  check_model(a.model, a.runtime);
  void *library = dlopen(a.library, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) fail(STATUS_LIBRARY, "library", "cannot load the runtime: %s", dlerror());

  Session session = {.nodes = -1, .nodes_taken = -1, .partitions = -1, .fully_accelerated = -1};
  int64_t started = now_ns();
  if (!strcmp(a.runtime, "onnx")) {
    open_onnx(&a, library, &session);
  } else if (optional_symbol(library, "LiteRtCreateEnvironment")) {
    open_litert(&a, library, &session);
  } else {
    open_tflite(&a, library, &session);
  }
  int64_t load_ns = now_ns() - started - session.placement_ns;

  void *input = a.input ? read_whole(a.input, session.input.bytes) : calloc(1, session.input.bytes);
  void *output = malloc(session.output.bytes);
  if (input == NULL || output == NULL) fail(STATUS_RUNTIME, "memory", "out of memory");
  session.write_input(input);
  print_header(&a, &session, load_ns);
  fflush(lines);
  measure(&session, "warmup", a.warmup, a.frequency_every);
  long samples = measure(&session, "sample", a.samples, a.frequency_every);
  if (a.output) {
    if (!samples) session.invoke();
    session.read_output(output);
    write_whole(a.output, output, session.output.bytes);
  }
  fprintf(lines, "{\"kind\":\"end\",\"samples\":%ld", samples);
  /* A session for the placement was there beside the timed one: the peak is not the latter's. */
  print_count("peak_rss_kb", session.placement_ns ? -1 : peak_kilobytes());
  fprintf(lines, ",\"interrupted\":%s}\n", interrupted ? "true" : "false");
  leave(0);
}
