// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/remote.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/digest.h"

namespace scheduler {
namespace {

using nlohmann::json;
using namespace std::chrono_literals;

// MUNGE takes a credential from a clock that is ahead by up to its life.
constexpr int kLivesRemembered = 2;

std::string question_payload(const std::string& text) {
  return "trainyard question\n" + accounting::sha256_hex(text);
}

std::string answer_payload(const std::string& question, const std::string& answer) {
  return "trainyard answer\n" + accounting::sha256_hex(question) + "\n" +
         accounting::sha256_hex(answer);
}

struct Envelope {
  std::string credential, text;
};

Expected<Envelope> open_envelope(const std::string& line, const char* key) {
  const json message = json::parse(line, nullptr, false);
  const auto text = [&message](const char* name) -> const json* {
    if (!message.is_object()) return nullptr;
    const auto found = message.find(name);
    return found != message.end() && found->is_string() ? &*found : nullptr;
  };
  const json* credential = text("credential");
  const json* content = text(key);
  if (credential == nullptr || content == nullptr) {
    return tl::unexpected(
        Error{fmt::format("the message is no object with the texts credential and {}", key)});
  }
  return Envelope{credential->get<std::string>(), content->get<std::string>()};
}

std::string envelope(const std::string& credential, const char* key, const std::string& text) {
  return json{{"credential", credential}, {key, text}}.dump(-1, ' ', false,
                                                            json::error_handler_t::replace);
}

}  // namespace

Expected<std::string> seal_question(Credentials& credentials, const std::string& text,
                                    std::optional<std::uint32_t> service) {
  const auto credential = credentials.make(question_payload(text), service);
  if (!credential) return tl::unexpected(credential.error());
  return envelope(*credential, "question", text);
}

Expected<std::string> seal_answer(Credentials& credentials, const RemoteQuestion& question,
                                  const std::string& answer) {
  const auto credential = credentials.make(answer_payload(question.text, answer), question.uid);
  if (!credential) return tl::unexpected(credential.error());
  return envelope(*credential, "answer", answer);
}

Expected<std::string> open_answer(Credentials& credentials, const std::string& line,
                                  const std::string& question,
                                  std::optional<std::uint32_t> service) {
  const auto opened = open_envelope(line, "answer");
  if (!opened) return tl::unexpected(opened.error());
  const auto credential = credentials.read(opened->credential);
  if (!credential) return tl::unexpected(credential.error());
  if (credential->uid != 0 && (!service || credential->uid != *service)) {
    return tl::unexpected(Error{fmt::format(
        "the answer was made by uid {}, which is not the service's account", credential->uid)});
  }
  if (credential->payload != answer_payload(question, opened->text)) {
    return tl::unexpected(
        Error{"the answer does not fit its credential: it was changed, or is the "
              "answer to another question"});
  }
  return opened->text;
}

void QuestionReader::forget(TimePoint now) {
  while (!until_.empty() && until_.begin()->first < now) {
    const Remembered& oldest = until_.begin()->second;
    seen_.erase(oldest.digest);
    if (--count_of_[oldest.uid] == 0) count_of_.erase(oldest.uid);
    until_.erase(until_.begin());
  }
}

Expected<RemoteQuestion> QuestionReader::open(const std::string& line,
                                              std::chrono::steady_clock::time_point now) {
  const auto opened = open_envelope(line, "question");
  if (!opened) return tl::unexpected(opened.error());
  const auto credential = credentials_->read(opened->credential);
  if (!credential) return tl::unexpected(credential.error());
  if (credential->payload != question_payload(opened->text)) {
    return tl::unexpected(Error{"the question does not fit its credential: it was changed"});
  }
  forget(now);
  std::size_t& count = count_of_[credential->uid];
  if (count >= kRememberedOfAUser) {
    return tl::unexpected(
        Error{fmt::format("uid {} has asked {} questions from other nodes within {} minutes; ask "
                          "again later, and less often",
                          credential->uid, count, kLivesRemembered * credential->life / 1min)});
  }
  const std::string digest = accounting::sha256_hex(opened->credential);
  if (!seen_.insert(digest).second) {
    return tl::unexpected(Error{"this question was asked before: a replay"});
  }
  ++count;
  until_.emplace(now + kLivesRemembered * credential->life, Remembered{digest, credential->uid});
  return RemoteQuestion{credential->uid, opened->text};
}

std::optional<HostPort> parse_host_port(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return std::nullopt;
  HostPort address{text.substr(0, colon), text.substr(colon + 1)};
  if (address.host.front() == '[' && address.host.back() == ']' && address.host.size() > 2) {
    address.host = address.host.substr(1, address.host.size() - 2);
  } else if (address.host.find_first_of("[]: ") != std::string::npos) {
    return std::nullopt;
  }
  const bool is_number = !address.port.empty() && address.port.size() <= 5 &&
                         address.port.find_first_not_of("0123456789") == std::string::npos;
  if (!is_number || std::stoi(address.port) > 65'535) return std::nullopt;
  return address;
}

}  // namespace scheduler
