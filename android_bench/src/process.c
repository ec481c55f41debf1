/* What the kernel says of this process, and is told. */
#define _GNU_SOURCE
#include "process.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "runner.h"

void pin(const char *mask) {
  if (mask == NULL) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  size_t length = strlen(mask);
  int any = 0;
  for (size_t i = 0; i < length; ++i) {
    const char *digits = "0123456789abcdef";
    int c = mask[length - 1 - i];
    const char *found = c ? strchr(digits, c >= 'A' && c <= 'F' ? c + 32 : c) : NULL;
    if (found == NULL) fail(STATUS_USAGE, "usage", "--cpu-mask %s: not hexadecimal", mask);
    for (int bit = 0; bit < 4; ++bit) {
      if ((found - digits) >> bit & 1 && i * 4 + (size_t)bit < CPU_SETSIZE) {
        CPU_SET(i * 4 + (size_t)bit, &set);
        any = 1;
      }
    }
  }
  if (!any || sched_setaffinity(0, sizeof set, &set))
    fail(STATUS_USAGE, "usage", "--cpu-mask %s: %s", mask, any ? strerror(errno) : "no cpu");
}

void allowed_cpus(char *text, size_t size) {
  FILE *file = fopen("/proc/self/status", "r");
  snprintf(text, size, "unknown");
  if (file == NULL) return;
  char line[512];
  while (fgets(line, sizeof line, file)) {
    if (sscanf(line, "Cpus_allowed_list: %255s", text) == 1) break;
  }
  fclose(file);
}

/* VmHWM: getrusage would count what started this process. */
long peak_kilobytes(void) {
  long peak = -1;
  char line[512];
  FILE *file = fopen("/proc/self/status", "r");
  if (file == NULL) return -1;
  while (fgets(line, sizeof line, file)) {
    if (sscanf(line, "VmHWM: %ld kB", &peak) == 1) break;
  }
  fclose(file);
  return peak;
}

long frequency_khz(int cpu) {
  char path[96];
  long khz = -1;
  snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cpufreq/scaling_cur_freq", cpu);
  FILE *file = fopen(path, "r");
  if (file == NULL) return -1;
  if (fscanf(file, "%ld", &khz) != 1) khz = -1;
  fclose(file);
  return khz;
}
