/* Whether a file is one of TFLite's, and whether all of it is there. */
#ifndef CORONET_WHOLE_H
#define CORONET_WHOLE_H

#include <stddef.h>
#include <stdint.h>

int is_tflite(const unsigned char *bytes, size_t size);

/* Tell whether every offset that a reader follows stays in the file. */
int is_whole_tflite(const unsigned char *bytes, size_t size);

#endif
