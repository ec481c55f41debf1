/* LiteRT 2 through its C API (libLiteRt.so, 2.3 or later).

   On the GPU a run only enqueues work, and the tensors are the GPU's. There a sample is what an app
   waits for: the picture's way in, the run, and the output where the CPU can read it. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"

typedef void *Handle;
typedef int Result;

typedef struct {
  unsigned int rank : 7;
  unsigned int has_strides : 1;
  int32_t dimensions[8];
  uint32_t strides[8];
} Layout;

typedef struct {
  int element;
  Layout layout;
} TensorType;

enum { ACCELERATOR_CPU = 1, ACCELERATOR_GPU = 2, LOCK_READ = 0, LOCK_WRITE = 1 };
enum { STATUS_COMPILATION = 504 }; /* kLiteRtStatusErrorCompilation: the graph was not taken */

static Handle model, compiled, buffers[2];
static size_t bytes_of[2];
static const void *picture; /* the caller's, as long as the process lives */
static Result (*run_model)(Handle, size_t, size_t, Handle *, size_t, Handle *);
static Result (*lock_buffer)(Handle, void **, int);
static Result (*unlock_buffer)(Handle);

#define GET(library, name, ...) ((Result(*)(__VA_ARGS__))symbol(library, #name))

static void check(Result result, int status, const char *doing) {
  if (result)
    fail(status, status == STATUS_DELEGATE ? "delegate" : "runtime",
         "%s: LiteRT answers with status %d", doing, result);
}

static void invoke(void) {
  check(run_model(compiled, 0, 1, buffers, 1, buffers + 1), STATUS_RUNTIME, "running the model");
}

static void write_input(const void *bytes) {
  void *held = NULL;
  picture = bytes;
  check(lock_buffer(buffers[0], &held, LOCK_WRITE), STATUS_RUNTIME, "writing the input");
  memcpy(held, bytes, bytes_of[0]);
  check(unlock_buffer(buffers[0]), STATUS_RUNTIME, "writing the input");
}

static void read_output(void *bytes) {
  void *held = NULL;
  check(lock_buffer(buffers[1], &held, LOCK_READ), STATUS_RUNTIME, "reading the output");
  memcpy(bytes, held, bytes_of[1]);
  check(unlock_buffer(buffers[1]), STATUS_RUNTIME, "reading the output");
}

static void invoke_with_transfers(void) {
  void *held = NULL;
  write_input(picture);
  invoke();
  check(lock_buffer(buffers[1], &held, LOCK_READ), STATUS_RUNTIME, "waiting for the output");
  check(unlock_buffer(buffers[1]), STATUS_RUNTIME, "waiting for the output");
}

/* The element types of TFLite files, by number. */
static void set_type(Tensor *tensor, const TensorType *type, const char *name) {
  static const struct {
    const char *name;
    size_t size;
  } types[] = {{"none", 0},  {"float32", 4}, {"int32", 4},   {"uint8", 1},
               {"int64", 8}, {"string", 0},  {"bool", 1},    {"int16", 2},
               {"none", 0},  {"int8", 1},    {"float16", 2}, {"float64", 8}};
  if (type->element < 0 || type->element >= (int)(sizeof types / sizeof *types) ||
      types[type->element].size == 0 || type->layout.rank > MOST_DIMENSIONS)
    fail(STATUS_USAGE, "model", "tensor %s has a type that is not supported", name);
  snprintf(tensor->name, sizeof tensor->name, "%s", name);
  snprintf(tensor->dtype, sizeof tensor->dtype, "%s", types[type->element].name);
  tensor->rank = (int)type->layout.rank;
  for (int i = 0; i < tensor->rank; ++i) tensor->shape[i] = type->layout.dimensions[i];
  tensor->bytes = tensor_bytes(tensor, types[type->element].size);
}

static void describe(void *library, Handle subgraph, const char *getter, Tensor *tensor,
                     TensorType *type) {
  Handle found = NULL;
  const char *name = NULL;
  check(((Result(*)(Handle, size_t, Handle *))symbol(library, getter))(subgraph, 0, &found),
        STATUS_USAGE, "reading the model's tensors");
  check(GET(library, LiteRtGetRankedTensorType, Handle, TensorType *)(found, type), STATUS_USAGE,
        "reading a tensor's type");
  check(GET(library, LiteRtGetTensorName, Handle, const char **)(found, &name), STATUS_USAGE,
        "reading a tensor's name");
  set_type(tensor, type, name ? name : "");
}

/* Add the options of a back end, `first` and `count` of those given: lines of TOML under the name
   of its kernels. */
static void add_options(void *library, Handle options, const char *name, const char *first,
                        const Arguments *a, int count) {
  char text[4096];
  Handle opaque = NULL;
  int used = snprintf(text, sizeof text, "%s", first);
  for (int i = 0; i < count && used < (int)sizeof text; ++i)
    used +=
        snprintf(text + used, sizeof text - (size_t)used, "%s = %s\n", a->keys[i], a->values[i]);
  if (used >= (int)sizeof text) fail(STATUS_USAGE, "usage", "the back end's options are too long");
  check(GET(library, LiteRtCreateOpaqueOptions, const char *, void *, void (*)(void *), Handle *)(
            name, strdup(text), free, &opaque),
        STATUS_RUNTIME, "setting options");
  check(GET(library, LiteRtAddOpaqueOptions, Handle, Handle)(options, opaque), STATUS_RUNTIME,
        "setting options");
}

/* Tell whether the chosen accelerator runs every operator. */
static int took_everything(void *library, int accelerator) {
  unsigned char all = 0, elsewhere = 1;
  check(
      GET(library, LiteRtCompiledModelIsFullyAccelerated, Handle, unsigned char *)(compiled, &all),
      STATUS_RUNTIME, "asking what was accelerated");
  Function stricter = optional_symbol(library, "LiteRtCompiledModelIsNonCpuFullyAccelerated");
  if (accelerator != ACCELERATOR_CPU && stricter)
    check(((Result(*)(Handle, unsigned char *))stricter)(compiled, &elsewhere), STATUS_RUNTIME,
          "asking what was accelerated");
  return all && elsewhere;
}

static Handle make_options(void *library, int accelerators, const Arguments *a) {
  Handle options = NULL;
  char threads[64];
  snprintf(threads, sizeof threads, "num_threads = %d\n", a->threads);
  check(GET(library, LiteRtCreateOptions, Handle *)(&options), STATUS_RUNTIME, "making options");
  check(GET(library, LiteRtSetOptionsHardwareAccelerators, Handle, int)(options, accelerators),
        STATUS_RUNTIME, "choosing the back end");
  /* Beside a GPU, the given options are the GPU's. */
  if (accelerators & ACCELERATOR_CPU)
    add_options(library, options, "xnnpack", threads, a,
                accelerators == ACCELERATOR_CPU ? a->options : 0);
  if (accelerators & ACCELERATOR_GPU)
    add_options(library, options, "gpu_options", "", a, a->options);
  return options;
}

/* Tell whether LiteRT found an accelerator of this kind. */
static int has_accelerator(void *library, Handle environment, int kind) {
  size_t count = 0;
  if (optional_symbol(library, "LiteRtGetNumAccelerators") == NULL ||
      GET(library, LiteRtGetNumAccelerators, Handle, size_t *)(environment, &count))
    return 0;
  for (size_t i = 0; i < count; ++i) {
    Handle found = NULL;
    int supported = 0;
    if (GET(library, LiteRtGetAccelerator, Handle, size_t, Handle *)(environment, i, &found) == 0 &&
        GET(library, LiteRtGetAcceleratorHardwareSupport, Handle, int *)(found, &supported) == 0 &&
        supported & kind)
      return 1;
  }
  return 0;
}

/* Refuse a library whose calls take other arguments. From 2.1.6 on the environment comes first, under
   the same names: told are the versions apart by functions that came with it. */
static void require_environment_first(void *library) {
  static const char *const came_with_it[] = {
      "LiteRtCreateModelFromFd", "LiteRtCreateModelFromAllocation", "LiteRtGetBlockWiseQuantization"};
  for (size_t i = 0; i < sizeof came_with_it / sizeof *came_with_it; ++i) {
    if (optional_symbol(library, came_with_it[i])) return;
  }
  fail(STATUS_LIBRARY, "library", "this LiteRT is older than 2.1.6: give one of 2.3 or later");
}

/* A GPU that alone does not run the whole graph is compiled for with the CPU beside it, and said
   not to run all. */
static int compile_model(void *library, Handle environment, int accelerator, const Arguments *a) {
  Result (*make)(Handle, Handle, Handle, Handle *) =
      GET(library, LiteRtCreateCompiledModel, Handle, Handle, Handle, Handle *);
  Result result = make(environment, model, make_options(library, accelerator, a), &compiled);
  int lacking =
      accelerator != ACCELERATOR_CPU && !has_accelerator(library, environment, accelerator);
  if (result && lacking)
    fail(STATUS_DELEGATE, "delegate",
         "compiling the model: LiteRT answers with status %d and finds no accelerator for %s: one "
         "stands beside the library or is given by --backend-library",
         result, a->backend);
  int shared = result == STATUS_COMPILATION && accelerator != ACCELERATOR_CPU;
  if (shared)
    result = make(environment, model, make_options(library, accelerator | ACCELERATOR_CPU, a),
                  &compiled);
  check(result, accelerator == ACCELERATOR_CPU ? STATUS_RUNTIME : STATUS_DELEGATE,
        "compiling the model");
  return !shared && took_everything(library, accelerator);
}

void open_litert(const Arguments *a, void *library, Session *session) {
  Handle environment = NULL, subgraph = NULL, wanted = NULL;
  TensorType types[2] = {{0}};
  size_t count[2] = {0, 0}, operators = 0;
  int accelerator = ACCELERATOR_CPU;
  if (!strcmp(a->backend, "gpu")) {
    accelerator = ACCELERATOR_GPU;
  } else if (!strcmp(a->backend, "cpu")) {
    refuse_library(a, "LiteRT's cpu");
  } else {
    fail(STATUS_DELEGATE, "delegate",
         "LiteRT's compiled model takes no %s delegate: give TensorFlow Lite's C library",
         a->backend);
  }
  /* LiteRT looks for its accelerator by name; one that is loaded already is found under its own. */
  if (a->backend_library && dlopen(a->backend_library, RTLD_NOW | RTLD_LOCAL) == NULL)
    fail(STATUS_LIBRARY, "library", "cannot load the accelerator: %s", dlerror());
  require_environment_first(library);
  snprintf(session->runtime_version, sizeof session->runtime_version, "LiteRT 2");
  check(GET(library, LiteRtCreateEnvironment, int, const void *, Handle *)(0, NULL, &environment),
        STATUS_RUNTIME, "starting LiteRT");
  check(GET(library, LiteRtCreateModelFromFile, Handle, const char *, Handle *)(environment,
                                                                                a->model, &model),
        STATUS_USAGE, "reading the model");
  check(GET(library, LiteRtGetModelSubgraph, Handle, size_t, Handle *)(model, 0, &subgraph),
        STATUS_USAGE, "reading the model");
  check(GET(library, LiteRtGetNumSubgraphInputs, Handle, size_t *)(subgraph, count), STATUS_USAGE,
        "reading the model");
  check(GET(library, LiteRtGetNumSubgraphOutputs, Handle, size_t *)(subgraph, count + 1),
        STATUS_USAGE, "reading the model");
  check(GET(library, LiteRtGetNumSubgraphOps, Handle, size_t *)(subgraph, &operators), STATUS_USAGE,
        "reading the model");
  if (count[0] != 1 || count[1] != 1)
    fail(STATUS_USAGE, "model", "the model has %zu inputs and %zu outputs, not one each", count[0],
         count[1]);
  describe(library, subgraph, "LiteRtGetSubgraphInput", &session->input, types);
  describe(library, subgraph, "LiteRtGetSubgraphOutput", &session->output, types + 1);

  session->fully_accelerated = compile_model(library, environment, accelerator, a);
  session->nodes = (long)operators;
  session->nodes_taken = session->fully_accelerated ? (long)operators : -1;

  Result (*make)(Handle, TensorType *, Handle, Handle *) =
      GET(library, LiteRtCreateManagedTensorBufferFromRequirements, Handle, TensorType *, Handle,
          Handle *);
  static const char *const requirements[] = {"LiteRtGetCompiledModelInputBufferRequirements",
                                             "LiteRtGetCompiledModelOutputBufferRequirements"};
  for (int i = 0; i < 2; ++i) {
    check(((Result(*)(Handle, size_t, size_t, Handle *))symbol(library, requirements[i]))(
              compiled, 0, 0, &wanted),
          STATUS_RUNTIME, "asking for a buffer");
    check(make(environment, types + i, wanted, buffers + i), STATUS_RUNTIME, "making a buffer");
  }
  bytes_of[0] = session->input.bytes;
  bytes_of[1] = session->output.bytes;
  run_model =
      GET(library, LiteRtRunCompiledModel, Handle, size_t, size_t, Handle *, size_t, Handle *);
  lock_buffer = GET(library, LiteRtLockTensorBuffer, Handle, void **, int);
  unlock_buffer = GET(library, LiteRtUnlockTensorBuffer, Handle);
  session->transfers = accelerator != ACCELERATOR_CPU;
  session->invoke = session->transfers ? invoke_with_transfers : invoke;
  session->write_input = write_input;
  session->read_output = read_output;
}
