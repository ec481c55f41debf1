/* ONNX Runtime through its C API: a table of functions, whose order never changes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "runner.h"

/* Version 12 of the table is the first with the general way to append a provider (1.12, 2022). */
#define API_VERSION 12

/* Places in the table that are used here. */
enum {
  GET_ERROR_CODE = 1,
  GET_ERROR_MESSAGE = 2,
  CREATE_ENV = 3,
  CREATE_SESSION = 7,
  RUN = 9,
  CREATE_SESSION_OPTIONS = 10,
  ENABLE_PROFILING = 14,
  SET_LOG_SEVERITY = 22,
  SET_INTRA_OP_THREADS = 24,
  SET_INTER_OP_THREADS = 25,
  GET_INPUT_COUNT = 30,
  GET_OUTPUT_COUNT = 31,
  GET_INPUT_TYPE = 33,
  GET_OUTPUT_TYPE = 34,
  GET_INPUT_NAME = 36,
  GET_OUTPUT_NAME = 37,
  CREATE_TENSOR_WITH_DATA = 49,
  CAST_TO_TENSOR_INFO = 55,
  GET_ELEMENT_TYPE = 60,
  GET_DIMENSIONS_COUNT = 61,
  GET_DIMENSIONS = 62,
  CREATE_CPU_MEMORY_INFO = 69,
  ALLOCATOR_FREE = 76,
  GET_ALLOCATOR = 78,
  RELEASE_SESSION = 95,
  END_PROFILING = 110,
  ADD_CONFIG_ENTRY = 130,
  APPEND_PROVIDER = 216,
};

typedef struct Status Status;
typedef struct {
  const Function *(*get_api)(uint32_t version);
  const char *(*get_version)(void);
} ApiBase;

static const Function *api;
static void *memory, *values[2], *made;
static void *input_bytes, *output_bytes;
static const char *input_name, *output_name;
static Session *opened;

#define CALL(place, type, ...) ((type)api[place])(__VA_ARGS__)

/* OrtErrorCode of a file that is no model. */
enum { NO_MODEL = 4, INVALID_PROTOBUF = 7, INVALID_GRAPH = 10 };

static void check(Status *status, int exit_status, const char *doing) {
  if (status == NULL) return;
  int code = CALL(GET_ERROR_CODE, int (*)(const Status *), status);
  const char *message = CALL(GET_ERROR_MESSAGE, const char *(*)(const Status *), status);
  if (code == NO_MODEL || code == INVALID_PROTOBUF || code == INVALID_GRAPH)
    fail(STATUS_USAGE, "model", "%s: %s", doing, message);
  fail(exit_status, exit_status == STATUS_DELEGATE ? "delegate" : "runtime", "%s: %s", doing,
       message);
}

/* ONNXTensorElementDataType, by number, and the bytes of one element. */
static const struct {
  const char *name;
  size_t size;
} TYPES[] = {{"undefined", 0}, {"float32", 4}, {"uint8", 1},   {"int8", 1},
             {"uint16", 2},    {"int16", 2},   {"int32", 4},   {"int64", 8},
             {"string", 0},    {"bool", 1},    {"float16", 2}, {"float64", 8}};

static void describe(void *session, int place, int name_place, Tensor *tensor, const char **name) {
  void *type = NULL, *allocator = NULL;
  const void *info = NULL;
  char *own = NULL;
  int element = 0;
  size_t rank = 0;
  check(CALL(place, Status * (*)(void *, size_t, void **), session, 0, &type), STATUS_RUNTIME,
        "reading the model's tensors");
  check(CALL(CAST_TO_TENSOR_INFO, Status * (*)(void *, const void **), type, &info), STATUS_RUNTIME,
        "reading the model's tensors");
  if (info == NULL) fail(STATUS_USAGE, "model", "the model's input or output is no tensor");
  check(CALL(GET_ELEMENT_TYPE, Status * (*)(const void *, int *), info, &element), STATUS_RUNTIME,
        "reading a type");
  check(CALL(GET_DIMENSIONS_COUNT, Status * (*)(const void *, size_t *), info, &rank),
        STATUS_RUNTIME, "reading a shape");
  if (rank > MOST_DIMENSIONS || element < 0 || element >= (int)(sizeof TYPES / sizeof *TYPES) ||
      TYPES[element].size == 0)
    fail(STATUS_USAGE, "model", "the model's input or output has a type that is not supported");
  check(CALL(GET_DIMENSIONS, Status * (*)(const void *, int64_t *, size_t), info, tensor->shape,
             rank),
        STATUS_RUNTIME, "reading a shape");
  check(CALL(GET_ALLOCATOR, Status * (*)(void **), &allocator), STATUS_RUNTIME, "allocating");
  check(
      CALL(name_place, Status * (*)(void *, size_t, void *, char **), session, 0, allocator, &own),
      STATUS_RUNTIME, "reading a name");
  snprintf(tensor->name, sizeof tensor->name, "%s", own);
  snprintf(tensor->dtype, sizeof tensor->dtype, "%s", TYPES[element].name);
  tensor->rank = (int)rank;
  tensor->bytes = tensor_bytes(tensor, TYPES[element].size);
  *name = own; /* kept for the process's life */
}

static int element_of(const Tensor *tensor) {
  int element = 0;
  while (strcmp(TYPES[element].name, tensor->dtype)) ++element;
  return element;
}

static void *value_over(void *bytes, const Tensor *tensor) {
  void *value = NULL;
  check(CALL(CREATE_TENSOR_WITH_DATA,
             Status * (*)(const void *, void *, size_t, const int64_t *, size_t, int, void **),
             memory, bytes, tensor->bytes, tensor->shape, (size_t)tensor->rank, element_of(tensor),
             &value),
        STATUS_RUNTIME, "making a tensor");
  return value;
}

static void run(void *session) {
  const char *inputs[] = {input_name}, *outputs[] = {output_name};
  check(CALL(RUN,
             Status * (*)(void *, const void *, const char *const *, void *const *, size_t,
                          const char *const *, size_t, void **),
             session, NULL, inputs, values, 1, outputs, 1, values + 1),
        STATUS_RUNTIME, "running the model");
}

static void invoke(void) { run(made); }
static void write_input(const void *bytes) { memcpy(input_bytes, bytes, opened->input.bytes); }
static void read_output(void *bytes) { memcpy(bytes, output_bytes, opened->output.bytes); }

/* The name of the execution provider behind a back end. */
static const char *provider_of(const Arguments *a) {
  if (!strcmp(a->backend, "nnapi")) return "NNAPI";
  for (int i = 0; i < a->options; ++i) {
    if (!strcmp(a->keys[i], "provider")) return a->values[i];
  }
  if (!strcmp(a->backend, "external")) return "QNN";
  fail(STATUS_DELEGATE, "delegate",
       "ONNX Runtime has no back end %s of its own: name one by --backend-option provider=NAME",
       a->backend);
}

/* NNAPI has a way in of its own, which takes nothing but flags. */
static void append_nnapi(const Arguments *a, void *library, void *options) {
  for (int i = 0; i < a->options; ++i) {
    if (strcmp(a->keys[i], "provider") || strcmp(a->values[i], "NNAPI"))
      fail(STATUS_USAGE, "usage", "--backend-option %s: ONNX Runtime's NNAPI takes no options",
           a->keys[i]);
  }
  refuse_library(a, "ONNX Runtime's NNAPI");
  Status *(*append)(void *, uint32_t) = (Status * (*)(void *, uint32_t))
      optional_symbol(library, "OrtSessionOptionsAppendExecutionProvider_Nnapi");
  if (append == NULL)
    fail(STATUS_DELEGATE, "delegate", "this ONNX Runtime was built without NNAPI");
  check(append(options, 0), STATUS_DELEGATE, "NNAPI");
}

static void append_provider(const Arguments *a, void *library, void *options) {
  if (!strcmp(a->backend, "cpu")) {
    refuse_options(a, "ONNX Runtime's cpu");
    refuse_library(a, "ONNX Runtime's cpu");
    return;
  }
  const char *provider = provider_of(a);
  if (!strcmp(provider, "NNAPI")) {
    append_nnapi(a, library, options);
    return;
  }
  const char *keys[MOST_OPTIONS + 1], *given[MOST_OPTIONS + 1];
  size_t count = 0;
  for (int i = 0; i < a->options; ++i) {
    if (!strcmp(a->keys[i], "provider")) continue;
    keys[count] = a->keys[i];
    given[count++] = a->values[i];
  }
  if (a->backend_library) {
    keys[count] = "backend_path";
    given[count++] = a->backend_library;
  }
  check(CALL(APPEND_PROVIDER,
             Status * (*)(void *, const char *, const char *const *, const char *const *, size_t),
             options, provider, keys, given, count),
        STATUS_DELEGATE, provider);
}

/* Int8 as phones compute it: by default an x86-64 host without VNNI adds pairs of products in 16
   bits that overflow. With it the other way draws the same in nearly twice the time; elsewhere the
   setting says nothing. */
static int has_vnni(void) {
#if defined(__x86_64__)
  unsigned a, b, c, d;
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512vnni"))
    return 1;
  /* AVX-VNNI, of client CPUs without AVX-512: not every compiler has a name for it. */
  return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
#else
  return 0;
#endif
}

static void *make_session(const Arguments *a, void *library, void *env, const char *profile) {
  void *options = NULL, *session = NULL;
  check(CALL(CREATE_SESSION_OPTIONS, Status * (*)(void **), &options), STATUS_RUNTIME, "options");
  check(CALL(SET_LOG_SEVERITY, Status * (*)(void *, int), options, 3), STATUS_RUNTIME, "options");
  check(CALL(SET_INTRA_OP_THREADS, Status * (*)(void *, int), options, a->threads), STATUS_RUNTIME,
        "threads");
  check(CALL(SET_INTER_OP_THREADS, Status * (*)(void *, int), options, 1), STATUS_RUNTIME,
        "threads");
  if (!has_vnni())
    check(CALL(ADD_CONFIG_ENTRY, Status * (*)(void *, const char *, const char *), options,
               "session.x64quantprecision", "1"),
          STATUS_RUNTIME, "options");
  if (profile)
    check(CALL(ENABLE_PROFILING, Status * (*)(void *, const char *), options, profile),
          STATUS_RUNTIME, "profiling");
  append_provider(a, library, options);
  check(CALL(CREATE_SESSION, Status * (*)(void *, const char *, const void *, void **), env,
             a->model, options, &session),
        strcmp(a->backend, "cpu") ? STATUS_DELEGATE : STATUS_RUNTIME, "loading the model");
  return session;
}

/* Count, in a profile, the kernels that ran on the CPU's provider and on others. A graph that
   a provider compiled whole counts as one. */
static void count_kernels(const char *path, Session *session) {
  FILE *file = fopen(path, "r");
  if (file == NULL) return;
  long nodes = 0, taken = 0;
  char *line = NULL;
  size_t room = 0;
  while (getline(&line, &room, file) > 0) {
    if (strstr(line, "_kernel_time") == NULL) continue;
    const char *provider = strstr(line, "\"provider\"");
    if (provider == NULL) continue;
    ++nodes;
    if (strstr(provider, "CPUExecutionProvider") == NULL) ++taken;
  }
  free(line);
  fclose(file);
  if (nodes == 0) return; /* a profile without kernels says nothing */
  session->nodes = nodes;
  session->nodes_taken = taken;
  session->fully_accelerated = nodes == taken;
}

/* Who ran what is only in a profile, which slows the run: it is taken by a session of its own,
   whose time is told apart. */
static void find_placement(const Arguments *a, void *library, void *env, Session *session) {
  char prefix[512];
  char *path = NULL;
  void *allocator = NULL;
  int64_t started = now_ns();
  snprintf(prefix, sizeof prefix, "%s.%ld.profile", a->output ? a->output : a->model,
           (long)getpid());
  void *profiled = make_session(a, library, env, prefix);
  run(profiled);
  check(CALL(GET_ALLOCATOR, Status * (*)(void **), &allocator), STATUS_RUNTIME, "allocating");
  check(CALL(END_PROFILING, Status * (*)(void *, void *, char **), profiled, allocator, &path),
        STATUS_RUNTIME, "profiling");
  count_kernels(path, session);
  unlink(path);
  CALL(RELEASE_SESSION, void (*)(void *), profiled);
  session->placement_ns = now_ns() - started;
}

void open_onnx(const Arguments *a, void *library, Session *session) {
  const ApiBase *base = ((const ApiBase *(*)(void))symbol(library, "OrtGetApiBase"))();
  snprintf(session->runtime_version, sizeof session->runtime_version, "%s", base->get_version());
  api = base->get_api(API_VERSION);
  if (api == NULL)
    fail(STATUS_LIBRARY, "library", "ONNX Runtime %s is older than 1.12", session->runtime_version);
  void *env = NULL;
  check(CALL(CREATE_ENV, Status * (*)(int, const char *, void **), 3, "coronet-runner", &env),
        STATUS_RUNTIME, "starting ONNX Runtime");
  opened = session;
  made = make_session(a, library, env, NULL);
  size_t inputs = 0, outputs = 0;
  check(CALL(GET_INPUT_COUNT, Status * (*)(void *, size_t *), made, &inputs), STATUS_RUNTIME,
        "reading the model");
  check(CALL(GET_OUTPUT_COUNT, Status * (*)(void *, size_t *), made, &outputs), STATUS_RUNTIME,
        "reading the model");
  if (inputs != 1 || outputs != 1)
    fail(STATUS_USAGE, "model", "the model has %zu inputs and %zu outputs, not one each", inputs,
         outputs);
  describe(made, GET_INPUT_TYPE, GET_INPUT_NAME, &session->input, &input_name);
  describe(made, GET_OUTPUT_TYPE, GET_OUTPUT_NAME, &session->output, &output_name);
  check(CALL(CREATE_CPU_MEMORY_INFO, Status * (*)(int, int, void **), 1, 0, &memory),
        STATUS_RUNTIME, "memory");
  input_bytes = calloc(1, session->input.bytes);
  output_bytes = calloc(1, session->output.bytes);
  if (input_bytes == NULL || output_bytes == NULL) fail(STATUS_RUNTIME, "memory", "out of memory");
  values[0] = value_over(input_bytes, &session->input);
  values[1] = value_over(output_bytes, &session->output);
  if (strcmp(a->backend, "cpu")) find_placement(a, library, env, session);
  session->transfers = strcmp(a->backend, "cpu") != 0;
  session->invoke = invoke;
  session->write_input = write_input;
  session->read_output = read_output;
}
