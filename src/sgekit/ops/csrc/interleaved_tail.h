#ifndef SGEKIT_INTERLEAVED_TAIL_H
#define SGEKIT_INTERLEAVED_TAIL_H
#include "interleaved_forward.h"
#endif
