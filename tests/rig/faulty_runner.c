/* A runner that behaves as the phone's file fake/faulty_mode says: what a bench must survive.
   Speaks the protocol of android_bench/README.md without loading anything. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODE "/fake/faulty_mode"
#define CRASHED "/data/local/tmp/.crashed"

static int taken = 12, sampled;
static const char *cpus = "";

static void header(void) {
  printf("{\"kind\":\"header\",\"version\":\"faulty\",\"runtime_version\":\"0\",\"load_ns\":1000000,"
         "\"nodes_taken\":%d,\"nodes\":12,\"partitions\":1,\"cpus_allowed_list\":\"%s\"}\n", taken,
         cpus);
}

static void samples(const char *kind, int count) {
  if (kind[0] == 's') sampled += count;
  for (int n = 0; n < count; ++n)
    printf("{\"kind\":\"%s\",\"t\":%d,\"ns\":2000000,\"cpu\":0,\"khz\":null}\n", kind, n);
}

int main(int argc, char **argv) {
  char mode[32] = "fine";
  const char *output = NULL, *backend = "cpu";
  FILE *file = fopen(MODE, "r");
  if (file != NULL) {
    if (fscanf(file, "%31s", mode) != 1) mode[0] = 0;
    fclose(file);
  }
  for (int n = 1; n + 1 < argc; ++n) {
    if (strcmp(argv[n], "--output") == 0) output = argv[n + 1];
    if (strcmp(argv[n], "--backend") == 0) backend = argv[n + 1];
  }
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (strcmp(mode, "partial") == 0 && strcmp(backend, "cpu") != 0) taken = 7;
  if (strcmp(mode, "elsewhere") == 0) cpus = "4-6";
  if (strcmp(mode, "refuse") == 0 && strcmp(backend, "cpu") != 0) {
    printf("{\"kind\":\"error\",\"code\":\"delegate\",\"message\":\"the delegate refused\"}\n");
    return 4;
  }
  if (strcmp(mode, "garbage") == 0) {
    printf("WARNING: linker: \xff\xfe not json {{{\n");
    return 0;
  }
  header();
  if (strcmp(mode, "abort") == 0) abort();
  if (strcmp(mode, "once") == 0 && open(CRASHED, O_CREAT | O_EXCL, 0600) >= 0) abort();
  samples("warmup", 6);
  if (strcmp(mode, "hang") == 0) {
    signal(SIGTERM, SIG_IGN);
    for (;;) pause();
  }
  if (strcmp(mode, "slow") == 0) {
    for (int n = 0; n < 20; ++n) {
      samples("sample", 1);
      usleep(75000);
    }
  }
  samples("sample", 5);
  if (output != NULL) {
    file = fopen(output, "w");
    for (int n = 0; n < 32 * 32 * 3 * 4; ++n) fputc(0, file);
    fclose(file);
  }
  if (strcmp(mode, "short") == 0) return 0;
  printf("{\"kind\":\"end\",\"peak_rss_kb\":2048,\"samples\":%d}\n", sampled);
  return 0;
}
