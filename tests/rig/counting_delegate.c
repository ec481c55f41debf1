/* An external delegate that takes the first `take` nodes of a graph, and computes nothing.

   It says what the runner's own counting code sees of that, in the file `report`: so that code runs
   inside a real interpreter, which Python's package has, though not its C library. On request it
   prints a word on stdout (`say`), crashes as the process tears it down (`crash`) or makes no
   delegate (`refuse`, after which it reads no more options). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delegation.h"

/* What follows the head of the context, and a kernel's registration (tensorflow/lite/core/c). */
typedef struct {
  void *(*init)(TfLiteContext *, const char *, size_t);
  void (*free)(TfLiteContext *, void *);
  int (*prepare)(TfLiteContext *, TfLiteNode *);
  int (*invoke)(TfLiteContext *, TfLiteNode *);
  const char *(*profiling_string)(const TfLiteContext *, const TfLiteNode *);
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
  TfLiteDelegate head;
  void *copy_from, *copy_to, *free_handle;
  long long flags;
  void *opaque;
} Delegate;

static int take, crashes;
static char report[4096];
static Delegation counts = {-1, -1, -1};

static void __attribute__((destructor)) tear_down(void) {
  if (crashes) abort();
}

static void *init(TfLiteContext *context, const char *buffer, size_t length) {
  (void)context, (void)buffer, (void)length;
  return NULL;
}

static void release(TfLiteContext *context, void *data) { (void)context, (void)data; }

static int nothing(TfLiteContext *context, TfLiteNode *node) {
  (void)context, (void)node;
  return 0;
}

static int take_some(TfLiteContext *context, TfLiteDelegate *delegate) {
  TfLiteIntArray *plan = NULL;
  if (context->GetExecutionPlan(context, &plan)) return 1;
  int count = take < plan->size ? take : plan->size;
  TfLiteIntArray *nodes = malloc(sizeof *nodes + (size_t)count * sizeof nodes->data[0]);
  nodes->size = count;
  memcpy(nodes->data, plan->data, (size_t)count * sizeof nodes->data[0]);
  Registration kernel = {.init = init,
                         .free = release,
                         .prepare = nothing,
                         .invoke = nothing,
                         .custom_name = "counting",
                         .version = 1};
  int status =
      ((Context *)context)->ReplaceNodeSubsetsWithDelegateKernels(context, kernel, nodes, delegate);
  free(nodes);
  return status;
}

TfLiteDelegate *tflite_plugin_create_delegate(const char *const *keys, const char *const *values,
                                              size_t count, void (*error)(const char *)) {
  static Delegate delegate;
  for (size_t i = 0; i < count; ++i) {
    if (!strcmp(keys[i], "take")) take = atoi(values[i]);
    if (!strcmp(keys[i], "report")) snprintf(report, sizeof report, "%s", values[i]);
    if (!strcmp(keys[i], "say")) printf("%s\n", values[i]);
    if (!strcmp(keys[i], "crash")) crashes = 1;
    if (!strcmp(keys[i], "refuse")) {
      error("told to refuse");
      return NULL;
    }
  }
  delegate.head.Prepare = take_some;
  if (*report) watch_delegate(&delegate.head, &counts);
  return &delegate.head;
}

void tflite_plugin_destroy_delegate(TfLiteDelegate *delegate) {
  (void)delegate;
  if (!*report) return;
  FILE *file = fopen(report, "w");
  if (file == NULL) return;
  fprintf(file, "%ld %ld %ld", counts.nodes, counts.nodes_taken, counts.partitions);
  fclose(file);
}
