/* LiteRT as it was before 2.1.6: the model's functions take no environment, and follow what they
   are given in its place. */
#include <stdlib.h>

int LiteRtCreateEnvironment(int count, const void *options, void **made) {
  static int environment;
  (void)count, (void)options;
  *made = &environment;
  return 0;
}

int LiteRtCreateModelFromFile(const char *path, void **made) {
  (void)path, (void)made;
  abort();
}
