/* To be linked to LiteRT and loaded in its place: it writes the options that are made for XNNPACK
   and for the GPU into the file that the variable LITERT_OPTIONS names. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LiteRtCreateOpaqueOptions(const char *name, void *text, void (*release)(void *), void **made) {
  static int (*create)(const char *, void *, void (*)(void *), void **);
  if (create == NULL)
    create = (int (*)(const char *, void *, void (*)(void *), void **))dlsym(
        RTLD_NEXT, "LiteRtCreateOpaqueOptions");
  if (!strcmp(name, "xnnpack") || !strcmp(name, "gpu_options")) {
    FILE *file = fopen(getenv("LITERT_OPTIONS"), "a");
    if (file == NULL) abort();
    fprintf(file, "%s: %s", name, (const char *)text);
    fclose(file);
  }
  return create(name, text, release, made);
}
