/* A delegate with the way in of TensorFlow Lite's own for the GPU. It takes no node. */
#include "delegation.h"

static int take_nothing(TfLiteContext *context, TfLiteDelegate *delegate) {
  return context == NULL || delegate == NULL;
}

TfLiteDelegate *TfLiteGpuDelegateV2Create(const void *options) {
  static TfLiteDelegate delegate = {.Prepare = take_nothing};
  return options == NULL ? &delegate : NULL;
}
