// SPDX-License-Identifier: GPL-3.0-or-later
//
// The input as what several clients do on their sockets: connect, send any bytes cut anywhere, say
// no more, hang up, do not read, while time goes on. Every full line is answered once and in its
// order or refused, nothing is executed for who has hung up or was turned away, each user who waits
// gets an answer in every pass and nobody two, and what is kept for the clients has a bound.
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "scheduler/answers.h"
#include "scheduler/connections.h"

namespace {

using nlohmann::json;
using scheduler::Caller;
using scheduler::Connections;

constexpr std::size_t kPeersMax = 300;
constexpr std::size_t kUsers = 6;  // The last of them is an admin.
constexpr int kLinesMax = 1500;
constexpr std::size_t kLongMax = Connections::kRequestBytesMax;

void must(bool is_so) {
  if (!is_so) std::abort();
}

json answer_to(const Caller& caller, const json& request) {
  const std::size_t mark =
      std::hash<std::string>{}(request.dump(-1, ' ', false, json::error_handler_t::replace));
  return {{"ok", true}, {"user", caller.user}, {"mark", mark}};
}

// One client's end, and what it may expect.
struct Peer {
  int fd = -1;
  Caller caller;
  std::string line;                // What it has sent of its next line.
  std::vector<std::string> lines;  // Sent and not answered yet, oldest first.
  std::string heard;
  bool reads = true, has_always_read = true;
  bool is_over = false;      // The service has closed it, or it hung up.
  bool was_refused = false;  // A line too long, or no place: nothing more is executed.
  bool has_said_all = false;
};

class World {
 public:
  World() { site_.managed.slurm_user = "slurm"; }
  ~World() {
    for (const Peer& peer : peers_) {
      if (peer.fd >= 0) close(peer.fd);
    }
  }

  void connect(std::size_t user) {
    if (peers_.size() >= kPeersMax) return;
    int pair[2];
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
    Peer peer;
    peer.fd = pair[1];
    peer.caller.uid = static_cast<std::uint32_t>(1000 + user);
    peer.caller.user = "user" + std::to_string(user);
    peer.caller.is_admin = user + 1 == kUsers;
    peer.caller.groups = {std::to_string(peers_.size())};  // Which connection asks.
    peers_.push_back(peer);
    connections_.add(pair[0], site_);
  }

  void say(Peer& peer, std::string_view text) {
    if (peer.is_over || peer.has_said_all || lines_said_ > kLinesMax) return;
    const ssize_t sent = send(peer.fd, text.data(), text.size(), MSG_NOSIGNAL);
    for (ssize_t i = 0; i < sent; ++i) {
      if (text[static_cast<std::size_t>(i)] == '\n') {
        peer.lines.push_back(std::exchange(peer.line, ""));
        ++lines_said_;
      } else {
        peer.line += text[static_cast<std::size_t>(i)];
      }
    }
  }
  void say_no_more(Peer& peer) {
    if (peer.is_over) return;
    shutdown(peer.fd, SHUT_WR);
    peer.has_said_all = true;
  }
  void hang_up(Peer& peer) {
    if (peer.fd >= 0) close(peer.fd);
    peer.fd = -1;
    peer.is_over = true;
    peer.lines.clear();
  }
  void let_pass(std::chrono::milliseconds time) { now_ += time; }
  Peer* peer(std::size_t number) {
    return peers_.empty() ? nullptr : &peers_[number % peers_.size()];
  }

  // One round of the service; then everybody who reads has read.
  void round() {
    const std::set<std::uint32_t> waiting = users_who_wait();
    std::vector<pollfd> watched;
    connections_.watch(watched);
    must(poll(watched.data(), watched.size(), 0) >= 0);
    connections_.attend(watched.data(), site_);
    asked_.clear();
    connections_.answer_pass(
        [this](const Caller& caller, const json& request) { return answer(caller, request); },
        now_ + std::chrono::hours(1));
    connections_.close_idle();
    heard_.clear();
    for (Peer& peer : peers_) {
      if (peer.reads) listen(peer);
    }
    for (const std::uint32_t uid : waiting) must(heard_.contains(uid));
    // A line, what was read behind it, and an answer.
    must(connections_.bytes() <= (connections_.size() + 1) * (2 * kLongMax + 65536));
  }

  // What is left is answered, though changes may have to wait.
  void finish() {
    for (Peer& peer : peers_) {
      if (peer.fd >= 0) peer.reads = true;
    }
    for (int i = 0; i < 4000 && does_anybody_wait(); ++i) {
      let_pass(std::chrono::milliseconds(500));
      round();
    }
    must(!does_anybody_wait());
  }

 private:
  json answer(const Caller& caller, const json& request) {
    const Peer& peer = peers_.at(std::stoul(caller.groups.at(0)));
    must(peer.fd >= 0 && !peer.was_refused);
    must(asked_.insert(caller.uid).second || caller.is_admin);
    ++executed_[caller.uid];
    return answer_to(caller, request);
  }
  static bool waits(const Peer& peer) { return !peer.is_over && !peer.lines.empty(); }
  bool does_anybody_wait() const { return std::any_of(peers_.begin(), peers_.end(), waits); }
  // Those who have not used up their changes: an answer is due.
  std::set<std::uint32_t> users_who_wait() const {
    std::set<std::uint32_t> users;
    for (const Peer& peer : peers_) {
      const auto executed = executed_.find(peer.caller.uid);
      const bool has_changes =
          executed == executed_.end() || executed->second < scheduler::FairTurns::kChangesAtOnce;
      if (waits(peer) && has_changes) users.insert(peer.caller.uid);
    }
    for (const Peer& peer : peers_) {
      if (!peer.has_always_read) users.erase(peer.caller.uid);
    }
    return users;
  }

  void listen(Peer& peer) {
    if (peer.fd < 0 || peer.is_over) return;
    char buffer[65536];
    ssize_t got = 0;
    while ((got = recv(peer.fd, buffer, sizeof buffer, 0)) > 0) {
      peer.heard.append(buffer, static_cast<std::size_t>(got));
    }
    if (got == 0 || errno != EAGAIN) peer.is_over = true;
    for (std::size_t end; (end = peer.heard.find('\n')) != std::string::npos;) {
      take_answer(peer, peer.heard.substr(0, end));
      peer.heard.erase(0, end + 1);
    }
    must(peer.heard.empty() || !peer.is_over || !peer.has_always_read);
    // It is closed with all answered, or for a reason: one that is no reader is dropped after 15 s.
    const bool may_be_over = peer.lines.empty() || peer.was_refused;
    must(!peer.is_over || may_be_over || !peer.has_always_read);
  }

  void take_answer(Peer& peer, const std::string& text) {
    heard_.insert(peer.caller.uid);
    must(!peer.was_refused);
    const json answer = json::parse(text, nullptr, false);
    must(answer.is_object());
    if (answer.value("kind", "") == "refused") {
      must(text.find("Try again") != std::string::npos);
      peer.was_refused = true;
      return;
    }
    // What it has sent of a line counts too: no end of it may ever come.
    if (text.find("longer than") != std::string::npos) {
      must((peer.lines.empty() ? peer.line : peer.lines.front()).size() > kLongMax);
      peer.was_refused = true;
      return;
    }
    must(!peer.lines.empty());
    const json request = json::parse(peer.lines.front(), nullptr, false);
    must(peer.lines.front().size() <= kLongMax);
    peer.lines.erase(peer.lines.begin());
    must(answer == (request.is_object() ? answer_to(peer.caller, request)
                                        : scheduler::bad_request("the request is no JSON object")));
  }

  scheduler::Site site_;
  Connections::Time now_{std::chrono::hours(1)};
  int lines_said_ = 0;
  std::vector<Peer> peers_;
  std::set<std::uint32_t> asked_, heard_;
  std::map<std::uint32_t, std::int64_t> executed_;
  Connections connections_{[this](std::uint32_t, const scheduler::Site&) {
                             return scheduler::Expected<Caller>{peers_.back().caller};
                           },
                           [this] { return now_; }};
};

// Takes the input's bytes from its front; 0 where there are none.
struct Script {
  std::span<const std::uint8_t> bytes;
  std::uint8_t next() {
    if (bytes.empty()) return 0;
    const std::uint8_t byte = bytes.front();
    bytes = bytes.subspan(1);
    return byte;
  }
  std::string_view text(std::size_t length) {
    const auto part = bytes.first(std::min(length, bytes.size()));
    bytes = bytes.subspan(part.size());
    return {reinterpret_cast<const char*>(part.data()), part.size()};
  }
};

void act(World& world, Script& script) {
  const std::uint8_t what = script.next();
  if (what % 16 == 0) return world.connect(script.next() % kUsers);
  if (what % 16 == 1) {  // Many of one user.
    const std::size_t user = script.next() % kUsers;
    for (int i = 0; i < 40; ++i) world.connect(user);
    return;
  }
  if (what % 16 == 2) return world.let_pass(std::chrono::milliseconds(script.next() * 16));
  if (what % 16 == 3) return world.round();
  Peer* peer = world.peer(script.next());
  if (peer == nullptr) return;
  switch (what % 16) {
    case 4:
      return world.hang_up(*peer);
    case 5:
      return world.say_no_more(*peer);
    case 6: {
      peer->reads = !peer->reads;
      peer->has_always_read = false;
      return;
    }
    case 7:
      return world.say(*peer, std::string(script.next() * 8192UL, 'x'));
    case 8:
      return world.say(*peer, "\n");
    case 9:
      return world.say(*peer,
                       "{\"verb\":\"stop\",\"note\":\"" + std::string(1, script.next()) + "\"}\n");
    case 10: {
      std::string lines;
      for (int i = script.next(); i > 0; --i) lines += "{\"verb\":\"hello\"}\n";
      return world.say(*peer, lines);
    }
    default:
      return world.say(*peer, script.text(script.next()));
  }
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming)
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  World world;
  Script script{{data, size}};
  while (!script.bytes.empty()) act(world, script);
  world.finish();
  return 0;
}
