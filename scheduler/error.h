// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/error.h
//
// The three ways in which things do not go as wished: a fault of what the user wrote, a refusal
// ("the answer is no"), and an Error ("we could not find out").
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <vector>

namespace scheduler {

struct Error {
  std::string message;
};

template <typename T>
using Expected = tl::expected<T, Error>;

// A fault of a request or of site.toml: "train.toml:7", "--gpus", "epochs=".
struct Fault {
  std::string where;
  std::string message;  // What is wrong, with both numbers. What to do.
};

// All reasons at once, each a sentence with its numbers.
struct Refusal {
  std::vector<std::string> reasons;
};

[[nodiscard]] std::string to_text(const std::vector<Fault>& faults);  // One line a fault.

}  // namespace scheduler
