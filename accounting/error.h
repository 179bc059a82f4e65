// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/error.h
//
// "The world failed": the disk, the database. An answer of no is never an Error but a status.
#pragma once

#include <string>
#include <tl/expected.hpp>

namespace accounting {

struct Error {
  std::string message;  // Where, what, with numbers. A caller prefixes its own noun.
};

template <typename T>
using Expected = tl::expected<T, Error>;

}  // namespace accounting
