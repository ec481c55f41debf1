/* Count what a delegate took, from inside: its Prepare is called with the graph before and after.
 */
#include "delegation.h"

static int (*prepare)(TfLiteContext *, TfLiteDelegate *);
static Delegation *counts;

/* Prepare as the delegate does, then count: the nodes that it took are gone, and each run of them
   is one node of its own. */
static int prepare_and_count(TfLiteContext *context, TfLiteDelegate *delegate) {
  TfLiteIntArray *plan = NULL;
  if (context->GetExecutionPlan(context, &plan)) return 1;
  long nodes = plan->size, partitions = 0;
  int status = prepare(context, delegate);
  if (status || context->GetExecutionPlan(context, &plan)) return status ? status : 1;
  for (int i = 0; i < plan->size; ++i) {
    TfLiteNode *node = NULL;
    void *registration = NULL;
    if (context->GetNodeAndRegistration(context, plan->data[i], &node, &registration)) return 1;
    partitions += node->delegate == delegate;
  }
  counts->nodes = nodes;
  counts->partitions = partitions;
  counts->nodes_taken = nodes - (plan->size - partitions);
  return 0;
}

void watch_delegate(TfLiteDelegate *delegate, Delegation *result) {
  if (delegate->Prepare == NULL) return; /* an opaque one, whose functions are not here */
  counts = result;
  prepare = delegate->Prepare;
  delegate->Prepare = prepare_and_count;
}
