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
// HMAC-SHA256, the same.
[[nodiscard]] std::string hmac_sha256_hex(std::string_view key, std::string_view bytes);
// Whether two texts are equal, in a time that tells nothing of where they differ.
[[nodiscard]] bool equal_in_constant_time(std::string_view a, std::string_view b);

}  // namespace accounting
