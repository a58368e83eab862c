/* See describe.c. */
#ifndef IOWQ_DESCRIBE_H
#define IOWQ_DESCRIBE_H

#include "binding.h"

/* The number of parts. */
enum { IOWQ_PARTS = IOWQ_PART_TEXT + 1 };

#endif
