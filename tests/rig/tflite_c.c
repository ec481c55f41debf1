/* A stand-in for TensorFlow Lite's C library: the functions that the runner calls, over a graph of
   three nodes that hands its input on. Nobody ships the real one for this kind of machine. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "delegation.h"

enum { SIZE = 32 * 32 * 3 * 4, NODES = 3 };

/* As a delegate's `counting_delegate.c` declares it, as far as it is used here. */
typedef struct {
  void *functions[5];
  int builtin_code;
  const char *custom_name;
  int version;
  void *registration_external, *async_kernel;
  unsigned long long inplace_operator;
} Registration;

typedef struct {
  TfLiteContext head;
  int (*ReplaceNodeSubsetsWithDelegateKernels)(TfLiteContext *, Registration,
                                               const TfLiteIntArray *, TfLiteDelegate *);
} Context;

typedef struct {
  int threads;
  TfLiteDelegate *delegate;
} Options;

static char tensors[2][SIZE];
static TfLiteNode nodes[NODES + 1];
static TfLiteIntArray *plan;

static int get_plan(TfLiteContext *context, TfLiteIntArray **found) {
  (void)context;
  *found = plan;
  return 0;
}

static int get_node(TfLiteContext *context, int index, TfLiteNode **node, void **registration) {
  (void)context;
  *node = nodes + index;
  *registration = NULL;
  return 0;
}

static int replace(TfLiteContext *context, Registration kernel, const TfLiteIntArray *taken,
                   TfLiteDelegate *delegate) {
  (void)context, (void)kernel;
  if (taken->size == 0) return 0;
  int left = plan->size - taken->size;
  memmove(plan->data + 1, plan->data + taken->size, (size_t)left * sizeof plan->data[0]);
  plan->data[0] = NODES;
  plan->size = left + 1;
  nodes[NODES].delegate = delegate;
  return 0;
}

const char *TfLiteVersion(void) { return "stand-in"; }
void *TfLiteModelCreateFromFile(const char *path) { return (void *)path; }
Options *TfLiteInterpreterOptionsCreate(void) { return calloc(1, sizeof(Options)); }
void TfLiteInterpreterOptionsSetNumThreads(Options *options, int32_t threads) {
  options->threads = threads;
}
void TfLiteInterpreterOptionsAddDelegate(Options *options, TfLiteDelegate *delegate) {
  options->delegate = delegate;
}

void *TfLiteInterpreterCreate(void *model, Options *options) {
  static Context context = {{.GetExecutionPlan = get_plan, .GetNodeAndRegistration = get_node},
                            replace};
  plan = malloc(sizeof *plan + NODES * sizeof plan->data[0]);
  plan->size = NODES;
  for (int i = 0; i < NODES; ++i) plan->data[i] = i;
  if (options->delegate && options->delegate->Prepare(&context.head, options->delegate))
    return NULL;
  return model;
}

int TfLiteInterpreterAllocateTensors(void *interpreter) { return interpreter == NULL; }
int32_t TfLiteInterpreterGetInputTensorCount(void *interpreter) { return interpreter != NULL; }
int32_t TfLiteInterpreterGetOutputTensorCount(void *interpreter) { return interpreter != NULL; }
void *TfLiteInterpreterGetInputTensor(void *interpreter, int32_t index) {
  return interpreter ? tensors[index] : NULL;
}
const void *TfLiteInterpreterGetOutputTensor(void *interpreter, int32_t index) {
  return interpreter ? tensors[index + 1] : NULL;
}
int TfLiteInterpreterInvoke(void *interpreter) {
  memcpy(tensors[1], tensors[0], SIZE);
  return interpreter == NULL;
}
int TfLiteTensorType(const void *tensor) { return tensor != NULL; } /* 1: float32 */
int32_t TfLiteTensorNumDims(const void *tensor) { return tensor ? 4 : 0; }
int32_t TfLiteTensorDim(const void *tensor, int32_t index) {
  return tensor == NULL ? 0 : index == 0 ? 1 : index == 3 ? 3 : 32;
}
size_t TfLiteTensorByteSize(const void *tensor) { return tensor ? SIZE : 0; }
const char *TfLiteTensorName(const void *tensor) { return tensor == tensors[0] ? "in" : "out"; }
int TfLiteTensorCopyFromBuffer(void *tensor, const void *bytes, size_t size) {
  memcpy(tensor, bytes, size);
  return 0;
}
int TfLiteTensorCopyToBuffer(const void *tensor, void *bytes, size_t size) {
  memcpy(bytes, tensor, size);
  return 0;
}
