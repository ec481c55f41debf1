/* Whether a TFLite file is whole. Runtimes follow its offsets without looking, and crash over one
   that leads out of a file that was cut short.

   The format is FlatBuffers': a table begins with how far before it its list of members stands
   (vtable: its bytes, the table's bytes, then where each member is, 0 for none); a member that is a
   table or a vector is an offset from where it stands. */
#include <string.h>

#include "whole.h"

typedef struct Kind Kind;

/* A member that leads elsewhere: to a table of `kind` (width 0), to a vector of elements of `width`
   bytes, or of tables (width 4 and a kind). */
typedef struct {
  int slot, width;
  const Kind *kind;
} Member;

struct Kind {
  int count;
  Member members[7];
};

/* The members of TFLite's schema (schema.fbs) that a model with a picture in and out has. */
static const Kind ANY = {0, {{0, 0, NULL}}};
static const Kind BUFFER = {1, {{0, 1, NULL}}};
static const Kind NAMED = {1, {{0, 1, NULL}}};
static const Kind CODE = {1, {{1, 1, NULL}}};
static const Kind QUANTIZATION = {4, {{0, 4, NULL}, {1, 4, NULL}, {2, 4, NULL}, {3, 8, NULL}}};
static const Kind TENSOR = {4, {{0, 4, NULL}, {3, 1, NULL}, {4, 0, &QUANTIZATION}, {7, 4, NULL}}};
static const Kind OPERATOR = {4, {{1, 4, NULL}, {2, 4, NULL}, {4, 0, &ANY}, {5, 1, NULL}}};
static const Kind SUBGRAPH = {
    5, {{0, 4, &TENSOR}, {1, 4, NULL}, {2, 4, NULL}, {3, 4, &OPERATOR}, {4, 1, NULL}}};
static const Kind SIGNATURE = {3, {{0, 4, &NAMED}, {1, 4, &NAMED}, {2, 1, NULL}}};
static const Kind MODEL = {7,
                           {{1, 4, &CODE},
                            {2, 4, &SUBGRAPH},
                            {3, 1, NULL},
                            {4, 4, &BUFFER},
                            {5, 4, NULL},
                            {6, 4, &NAMED},
                            {7, 4, &SIGNATURE}}};

typedef struct {
  const unsigned char *bytes;
  size_t size;
} File;

static uint16_t half(const File *file, size_t at) {
  return (uint16_t)(file->bytes[at] | file->bytes[at + 1] << 8);
}

static uint32_t word(const File *file, size_t at) {
  return half(file, at) | (uint32_t)half(file, at + 2) << 16;
}

static int holds(const File *file, size_t at, size_t bytes) {
  return at <= file->size && bytes <= file->size - at;
}

/* Return where the offset at `at` leads, to at least one word of the file, or 0. */
static size_t follow(const File *file, size_t at) {
  size_t to = holds(file, at, 4) ? at + word(file, at) : 0;
  return to && holds(file, to, 4) ? to : 0;
}

static int table_is_whole(const File *file, size_t at, const Kind *kind);

static int vector_is_whole(const File *file, size_t at, const Member *member) {
  size_t count = word(file, at), first = at + 4;
  if (count > (file->size - first) / (size_t)member->width) return 0;
  for (size_t i = 0; member->kind && i < count; ++i) {
    size_t element = follow(file, first + 4 * i);
    if (element == 0 || !table_is_whole(file, element, member->kind)) return 0;
  }
  return 1;
}

static int table_is_whole(const File *file, size_t at, const Kind *kind) {
  int64_t found = holds(file, at, 4) ? (int64_t)at - (int32_t)word(file, at) : -1;
  size_t list = (size_t)found;
  if (found < 0 || !holds(file, list, 4)) return 0;
  size_t listed = half(file, list), bytes = half(file, list + 2);
  if (listed < 4 || !holds(file, list, listed) || !holds(file, at, bytes)) return 0;
  for (int i = 0; i < kind->count; ++i) {
    const Member *member = kind->members + i;
    size_t slot = 4 + 2 * (size_t)member->slot;
    size_t offset = slot + 2 <= listed ? half(file, list + slot) : 0;
    if (offset == 0) continue;
    size_t to = offset + 4 <= bytes ? follow(file, at + offset) : 0;
    if (to == 0) return 0;
    if (!(member->width ? vector_is_whole(file, to, member)
                        : table_is_whole(file, to, member->kind)))
      return 0;
  }
  return 1;
}

int is_tflite(const unsigned char *bytes, size_t size) {
  return size >= 8 && !memcmp(bytes + 4, "TFL3", 4);
}

int is_whole_tflite(const unsigned char *bytes, size_t size) {
  File file = {bytes, size};
  size_t root = follow(&file, 0);
  return root != 0 && table_is_whole(&file, root, &MODEL);
}
