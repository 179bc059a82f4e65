// SPDX-License-Identifier: Apache-2.0
// trainer/id_exchange.h
//
// Rank 0's few bytes on every rank, for communicators that need such a start where MPI gives none:
// over TCP or over a file that all nodes see. Nothing here knows what the bytes mean.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace trainer {

struct Exchange {
  int rank = 0, size = 1;
  std::string key;       // Of this attempt of this job: bytes of another one are not taken.
  double limit_s = 600;  // How long a rank waits for the others.
};

// "HOST:PORT", the port on which rank 0's host listens.
struct Address {
  std::string host;
  std::uint16_t port = 0;
};
// Throws std::invalid_argument where the text is none.
[[nodiscard]] Address parse_address(const std::string& text);

// `bytes` count on rank 0 alone and are returned everywhere. All ranks call it. Rank 0 returns when
// every other rank has fetched them. Throws std::runtime_error naming what did not come in time.
[[nodiscard]] std::vector<std::byte> share_over_tcp(const Exchange& exchange,
                                                    const Address& address,
                                                    const std::vector<std::byte>& bytes);

// As above, by a file at `path` that rank 0 writes, whole or not at all. It stays; rank 0 replaces
// that of another attempt. Rank 0 does not wait.
[[nodiscard]] std::vector<std::byte> share_over_file(const Exchange& exchange,
                                                     const std::string& path,
                                                     const std::vector<std::byte>& bytes);

}  // namespace trainer
