/* Text as JSON has it. */
#ifndef CORONET_TEXT_H
#define CORONET_TEXT_H

#include <stdio.h>

/* Write `text` as a string of JSON, in ASCII: whatever else is escaped, and a byte that is no UTF-8
   is U+FFFD. */
void print_string(FILE *file, const char *text);

#endif
