/* Text as JSON has it. A path is whatever bytes its file system holds, and JSON is Unicode. */
#include "text.h"

#include <stdint.h>

enum { REPLACEMENT = 0xfffd };

/* Return the character that `*text` begins with, and move past it. Bytes that could begin one and do
   not go on as it would are a replacement together, any other is one alone (Unicode, 3.9). */
static uint32_t next_character(const unsigned char **text) {
  const unsigned char *c = *text;
  uint32_t first = *c++, character = first;
  int more = first < 0x80 ? 0 : first < 0xc2 ? -1 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
  if (first > 0xf4) more = -1;
  /* The second byte tells what is written too long, half of a pair, or beyond U+10FFFF. */
  unsigned char least = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  unsigned char most = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  if (more > 0) character = first & (0x3fu >> more);
  while (more > 0 && *c >= least && *c <= most) {
    character = character << 6 | (*c++ & 0x3fu);
    least = 0x80;
    most = 0xbf;
    --more;
  }
  *text = c;
  return more ? REPLACEMENT : character;
}

void print_string(FILE *file, const char *text) {
  const unsigned char *c = (const unsigned char *)text;
  putc('"', file);
  while (*c) {
    uint32_t character = next_character(&c);
    if (character == '"' || character == '\\') {
      fprintf(file, "\\%c", (int)character);
    } else if (character >= 0x20 && character <= 0x7e) {
      putc((int)character, file);
    } else if (character < 0x10000) {
      fprintf(file, "\\u%04x", (unsigned)character);
    } else {
      unsigned rest = character - 0x10000;
      fprintf(file, "\\u%04x\\u%04x", 0xd800 + (rest >> 10), 0xdc00 + (rest & 0x3ff));
    }
  }
  putc('"', file);
}
