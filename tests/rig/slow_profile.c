/* The ONNX Runtime that the variable ONNXRUNTIME names, with profiles that take two seconds more to
   end: so it shows where the time of the session that is made for one is counted. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* As in the runner's onnx.c: places in the table of functions, and the last that is used. */
enum { END_PROFILING = 110, APPEND_PROVIDER = 216 };

typedef void (*Function)(void);
typedef void *(*End)(void *, void *, char **);

typedef struct {
  const Function *(*get_api)(uint32_t version);
  const char *(*get_version)(void);
} ApiBase;

static const ApiBase *real;
static End end;

static void *end_late(void *session, void *allocator, char **path) {
  sleep(2);
  return end(session, allocator, path);
}

static const Function *get_api(uint32_t version) {
  static Function functions[APPEND_PROVIDER + 1];
  memcpy(functions, real->get_api(version), sizeof functions);
  end = (End)functions[END_PROFILING];
  functions[END_PROFILING] = (Function)end_late;
  return functions;
}

const ApiBase *OrtGetApiBase(void) {
  static ApiBase ours;
  void *library = dlopen(getenv("ONNXRUNTIME"), RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) abort();
  real = ((const ApiBase *(*)(void))dlsym(library, "OrtGetApiBase"))();
  ours = (ApiBase){get_api, real->get_version};
  return &ours;
}
