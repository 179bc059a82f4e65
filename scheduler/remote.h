// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/remote.h
//
// Questions from other nodes (docs/formats/protocol.md, "From another node"). A question carries a
// MUNGE credential over its digest, which names who asks; an answer carries one over the digests of
// both, which only the service can have made. Neither can be changed on its way, and a question
// that is sent again is refused.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "scheduler/credential.h"
#include "scheduler/error.h"

namespace scheduler {

struct RemoteQuestion {
  std::uint32_t uid = 0;  // Who asks.
  std::string text;       // The request, as the local socket would get it.
};

// One line, without its end. `service`: the uid that may read it, where it is known.
[[nodiscard]] Expected<std::string> seal_question(Credentials& credentials, const std::string& text,
                                                  std::optional<std::uint32_t> service);
[[nodiscard]] Expected<std::string> seal_answer(Credentials& credentials,
                                                const RemoteQuestion& question,
                                                const std::string& answer);
// The answer's text. An Error where `is_service` does not take the uid that made it, or it is the
// answer to something else.
[[nodiscard]] Expected<std::string> open_answer(Credentials& credentials, const std::string& line,
                                                const std::string& question,
                                                std::optional<std::uint32_t> service);

// Opens questions. Each counts once, also where munged would let it pass twice: they are remembered
// for as long as they live. One user's questions do not shut out another's.
class QuestionReader {
 public:
  explicit QuestionReader(Credentials& credentials) : credentials_(&credentials) {}
  [[nodiscard]] Expected<RemoteQuestion> open(const std::string& line,
                                              std::chrono::steady_clock::time_point now);

  static constexpr std::size_t kRememberedOfAUser = 20'000;

 private:
  using TimePoint = std::chrono::steady_clock::time_point;
  struct Remembered {
    std::string digest;  // Of the credential.
    std::uint32_t uid = 0;
  };
  void forget(TimePoint now);

  Credentials* credentials_;
  std::multimap<TimePoint, Remembered> until_;
  std::set<std::string> seen_;  // The digests of until_.
  std::map<std::uint32_t, std::size_t> count_of_;
};

// "host:port", "[::1]:6838" -> host and port; nothing where it is neither.
struct HostPort {
  std::string host, port;
};
[[nodiscard]] std::optional<HostPort> parse_host_port(const std::string& text);

}  // namespace scheduler
