/* TensorFlow Lite through its C API (libtensorflowlite_c.so), with delegates by path.

   A delegate library exports `tflite_plugin_create_delegate` (the external delegate's interface)
   or, for the GPU, `TfLiteGpuDelegateV2Create`. The C API does not say how many nodes it took; it
   is seen in the graph once the delegate has prepared it. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delegation.h"
#include "runner.h"

typedef void *Handle;

static void *lib;
static Handle interpreter;
static Handle input, output;
static size_t input_size, output_size;
static int (*invoke_interpreter)(Handle);

static void invoke(void) {
  if (invoke_interpreter(interpreter)) fail(STATUS_RUNTIME, "runtime", "running the model failed");
}

static void write_input(const void *bytes) {
  int (*copy)(Handle, const void *, size_t) =
      (int (*)(Handle, const void *, size_t))symbol(lib, "TfLiteTensorCopyFromBuffer");
  if (copy(input, bytes, input_size)) fail(STATUS_RUNTIME, "runtime", "writing the input failed");
}

static void read_output(void *bytes) {
  int (*copy)(Handle, void *, size_t) =
      (int (*)(Handle, void *, size_t))symbol(lib, "TfLiteTensorCopyToBuffer");
  if (copy(output, bytes, output_size))
    fail(STATUS_RUNTIME, "runtime", "reading the output failed");
}

static void describe(Handle tensor, Tensor *told) {
  static const char *const names[] = {"none", "float32", "int32",   "uint8", "int64",   "string",
                                      "bool", "int16",   "complex", "int8",  "float16", "float64"};
  int type = ((int (*)(Handle))symbol(lib, "TfLiteTensorType"))(tensor);
  const char *name = ((const char *(*)(Handle))symbol(lib, "TfLiteTensorName"))(tensor);
  snprintf(told->name, sizeof told->name, "%s", name ? name : "");
  snprintf(told->dtype, sizeof told->dtype, "%s",
           type >= 0 && type < (int)(sizeof names / sizeof *names) ? names[type] : "unknown");
  told->rank = ((int (*)(Handle))symbol(lib, "TfLiteTensorNumDims"))(tensor);
  if (told->rank < 0 || told->rank > MOST_DIMENSIONS)
    fail(STATUS_USAGE, "model", "tensor %s has %d dimensions", told->name, told->rank);
  for (int i = 0; i < told->rank; ++i)
    told->shape[i] = ((int32_t(*)(Handle, int32_t))symbol(lib, "TfLiteTensorDim"))(tensor, i);
  told->bytes = ((size_t(*)(Handle))symbol(lib, "TfLiteTensorByteSize"))(tensor);
}

static void delegate_error(const char *message) { fprintf(stderr, "%s\n", message); }

static Handle make_delegate(const Arguments *a, Delegation *delegation) {
  if (!strcmp(a->backend, "nnapi"))
    fail(STATUS_DELEGATE, "delegate", "TensorFlow Lite's NNAPI delegate is not in its C library");
  if (a->backend_library == NULL)
    fail(STATUS_DELEGATE, "delegate", "back end %s needs --backend-library", a->backend);
  void *library = dlopen(a->backend_library, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) fail(STATUS_LIBRARY, "library", "cannot load the delegate: %s", dlerror());
  Function external = optional_symbol(library, "tflite_plugin_create_delegate");
  Function gpu = optional_symbol(library, "TfLiteGpuDelegateV2Create");
  Handle made = NULL;
  if (external) {
    made = ((Handle(*)(const char *const *, const char *const *, size_t,
                       void (*)(const char *)))external)(a->keys, a->values, (size_t)a->options,
                                                         delegate_error);
  } else if (gpu) {
    refuse_options(a, "the GPU delegate");
    made = ((Handle(*)(const void *))gpu)(NULL);
  } else {
    fail(STATUS_LIBRARY, "symbol", "%s exports no delegate", a->backend_library);
  }
  if (made == NULL) fail(STATUS_DELEGATE, "delegate", "%s made no delegate", a->backend_library);
  watch_delegate(made, delegation);
  return made;
}

void open_tflite(const Arguments *a, void *library, Session *session) {
  Delegation delegation = {-1, -1, -1};
  lib = library;
  if (!strcmp(a->backend, "cpu")) {
    refuse_options(a, "TensorFlow Lite's cpu");
    refuse_library(a, "TensorFlow Lite's cpu");
  }
  const char *(*version)(void) = (const char *(*)(void))optional_symbol(library, "TfLiteVersion");
  snprintf(session->runtime_version, sizeof session->runtime_version, "TFLite %s",
           version ? version() : "unknown");
  Handle model = ((Handle(*)(const char *))symbol(library, "TfLiteModelCreateFromFile"))(a->model);
  if (model == NULL) fail(STATUS_USAGE, "model", "TensorFlow Lite cannot read %s", a->model);
  Handle options = ((Handle(*)(void))symbol(library, "TfLiteInterpreterOptionsCreate"))();
  ((void (*)(Handle, int32_t))symbol(library, "TfLiteInterpreterOptionsSetNumThreads"))(options,
                                                                                        a->threads);
  if (strcmp(a->backend, "cpu"))
    ((void (*)(Handle, Handle))symbol(library, "TfLiteInterpreterOptionsAddDelegate"))(
        options, make_delegate(a, &delegation));
  interpreter =
      ((Handle(*)(Handle, Handle))symbol(library, "TfLiteInterpreterCreate"))(model, options);
  int status = strcmp(a->backend, "cpu") ? STATUS_DELEGATE : STATUS_RUNTIME;
  if (interpreter == NULL ||
      ((int (*)(Handle))symbol(library, "TfLiteInterpreterAllocateTensors"))(interpreter))
    fail(status, status == STATUS_DELEGATE ? "delegate" : "runtime", "the graph was not taken");
  int (*inputs)(Handle) = (int (*)(Handle))symbol(library, "TfLiteInterpreterGetInputTensorCount");
  int (*outputs)(Handle) =
      (int (*)(Handle))symbol(library, "TfLiteInterpreterGetOutputTensorCount");
  if (inputs(interpreter) != 1 || outputs(interpreter) != 1)
    fail(STATUS_USAGE, "model", "the model has %d inputs and %d outputs, not one each",
         inputs(interpreter), outputs(interpreter));
  input = ((Handle(*)(Handle, int32_t))symbol(library, "TfLiteInterpreterGetInputTensor"))(
      interpreter, 0);
  output = ((Handle(*)(Handle, int32_t))symbol(library, "TfLiteInterpreterGetOutputTensor"))(
      interpreter, 0);
  describe(input, &session->input);
  describe(output, &session->output);
  input_size = session->input.bytes;
  output_size = session->output.bytes;
  invoke_interpreter = (int (*)(Handle))symbol(library, "TfLiteInterpreterInvoke");
  session->nodes = delegation.nodes;
  session->nodes_taken = delegation.nodes_taken;
  session->partitions = delegation.partitions;
  if (delegation.nodes >= 0)
    session->fully_accelerated = delegation.nodes_taken == delegation.nodes;
  session->transfers = strcmp(a->backend, "cpu") != 0;
  session->invoke = invoke;
  session->write_input = write_input;
  session->read_output = read_output;
}
