// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/text_file.h
//
// A small file as text: request files and site.toml. Private to the scheduler.
#pragma once

#include <string>

#include "scheduler/error.h"

namespace scheduler {

// The whole file. An Error says why not, without the path: "cannot be read: No such file ...".
// Files above 1 MiB are refused: nobody writes such a request.
[[nodiscard]] Expected<std::string> read_text_file(const std::string& path);

}  // namespace scheduler
