// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/digest.h
//
// Private to the module: the one place where OpenSSL enters.
#pragma once

#include <string>
#include <string_view>

namespace accounting {

// SHA-256 in 64 lower-case hexadecimal digits.
[[nodiscard]] std::string sha256_hex(std::string_view bytes);

}  // namespace accounting
