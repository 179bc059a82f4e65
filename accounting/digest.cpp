// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/digest.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <array>
#include <cstdio>
#include <cstdlib>

namespace accounting {

namespace {

std::string hex_of(const std::array<unsigned char, EVP_MAX_MD_SIZE>& digest, unsigned length) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  hex.reserve(64);
  for (unsigned i = 0; i < length; ++i) {
    hex += kDigits[digest[i] >> 4];
    hex += kDigits[digest[i] & 15];
  }
  return hex;
}

[[noreturn]] void give_up() {
  std::fputs("accounting: the SHA-256 of OpenSSL is not usable; no transfer can be chained.\n",
             stderr);
  std::abort();
}

// Fetched once: OpenSSL 3 would look it up anew for every hash.
const EVP_MD* sha256() {
  static const EVP_MD* const fetched = [] {
    const EVP_MD* found = EVP_MD_fetch(nullptr, "SHA256", nullptr);
    return found != nullptr ? found : EVP_sha256();
  }();
  return fetched;
}

}  // namespace

std::string sha256_hex(std::string_view bytes) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned length = 0;
  if (EVP_Digest(bytes.data(), bytes.size(), digest.data(), &length, sha256(), nullptr) != 1 ||
      length != 32) {
    give_up();
  }
  return hex_of(digest, length);
}

std::string hmac_sha256_hex(std::string_view key, std::string_view bytes) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned length = 0;
  const auto* data = reinterpret_cast<const unsigned char*>(bytes.data());
  if (HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), data, bytes.size(),
           digest.data(), &length) == nullptr ||
      length != 32) {
    give_up();
  }
  return hex_of(digest, length);
}

bool equal_in_constant_time(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace accounting
