// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/secret_key.h
//
// A key beside the database: made of the kernel's random numbers when it is first needed, or put
// there by an admin.
#pragma once

#include <string>

#include "scheduler/error.h"

namespace scheduler {

// The content of `path` less blanks at its end. An Error where others than its owner may read it, or
// it has less than 32 characters.
[[nodiscard]] Expected<std::string> secret_key(const std::string& path);

}  // namespace scheduler
