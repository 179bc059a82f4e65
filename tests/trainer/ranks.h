// SPDX-License-Identifier: GPL-3.0-or-later
//
// For tests that run under mpirun: the ranks, made by ranks_main.cpp.
#pragma once

#include "trainer/communicator.h"

namespace trainer {

extern Communicator* world;

}  // namespace trainer
