/* What the kernel says of this process, and is told. */
#ifndef CORONET_PROCESS_H
#define CORONET_PROCESS_H

#include <stddef.h>

/* Stay on the cpus of a hexadecimal mask, or fail; a null mask changes nothing. */
void pin(const char *mask);

/* Write the cpus that may be used, as the kernel lists them ("0-3,6"), or "unknown". */
void allowed_cpus(char *text, size_t size);

/* Return the most memory that this process held, or -1. */
long peak_kilobytes(void);

/* Return the frequency that a cpu runs at, or -1. */
long frequency_khz(int cpu);

#endif
