/* How much of a graph a TensorFlow Lite delegate took.

   The heads of the structures that delegates see (tensorflow/lite/core/c/common.h). Delegates are
   built apart from the interpreter, so these never change; fields after those used are left out. */
#ifndef CORONET_DELEGATION_H
#define CORONET_DELEGATION_H

#include <stddef.h>

typedef struct TfLiteContext TfLiteContext;
typedef struct TfLiteDelegate TfLiteDelegate;

typedef struct {
  int size;
  int data[];
} TfLiteIntArray;

typedef struct {
  TfLiteIntArray *inputs, *outputs, *intermediates, *temporaries;
  void *user_data, *builtin_data;
  const void *custom_initial_data;
  int custom_initial_data_size;
  TfLiteDelegate *delegate; /* the one that made this node of several; else null */
} TfLiteNode;

struct TfLiteContext {
  size_t tensors_size;
  int (*GetExecutionPlan)(TfLiteContext *, TfLiteIntArray **);
  void *tensors, *impl_;
  int (*ResizeTensor)(TfLiteContext *, void *, TfLiteIntArray *);
  void (*ReportError)(TfLiteContext *, const char *, ...);
  int (*AddTensors)(TfLiteContext *, int, int *);
  int (*GetNodeAndRegistration)(TfLiteContext *, int, TfLiteNode **, void **);
};

struct TfLiteDelegate {
  void *data_;
  int (*Prepare)(TfLiteContext *, TfLiteDelegate *);
};

typedef struct {
  long nodes, nodes_taken, partitions; /* as they were, if the delegate cannot be watched */
} Delegation;

/* Fill in `result` when the interpreter lets `delegate` prepare the graph. */
void watch_delegate(TfLiteDelegate *delegate, Delegation *result);

#endif
