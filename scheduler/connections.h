// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/connections.h
//
// The connected sockets of trainyardd: lines are read off them, wait for their turn (fair_turns.h),
// and are answered in the order of each socket. And who has how many places: ordinary users, admins
// and Slurm itself have places of their own, and where those of the users are all taken, whoever
// has the most gives one up. One thread; nothing here waits.
#pragma once

#include <poll.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/caller.h"
#include "scheduler/credential.h"
#include "scheduler/fair_turns.h"
#include "scheduler/remote.h"
#include "scheduler/site.h"

namespace scheduler {

class Connections {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using Clock = std::function<Time()>;
  using LookUp = std::function<Expected<Caller>(std::uint32_t uid, const Site& site)>;
  // Never throws for what the client sent.
  using Answer = std::function<nlohmann::json(const Caller& caller, const nlohmann::json& request)>;
  static constexpr std::size_t kRequestBytesMax = 1 << 20;
  static constexpr std::size_t kUserPlaces = 256, kUserPlacesRemote = 128;
  static constexpr std::size_t kPlacesOfOne = 128, kPlacesOfOneRemote = 64;

  explicit Connections(LookUp look_up, Clock clock = std::chrono::steady_clock::now)
      : look_up_(std::move(look_up)), clock_(std::move(clock)) {}
  Connections(const Connections&) = delete;
  Connections& operator=(const Connections&) = delete;
  ~Connections();

  // Opens the questions of other nodes; outlives this.
  void open_with(Credentials& credentials) {
    credentials_ = &credentials;
    questions_.emplace(credentials);
  }

  // Whether one more may be added.
  [[nodiscard]] bool has_room(bool is_remote) const;
  // Takes a connected descriptor that does not block. One who may have no place is told so.
  void add(int fd, const Site& site);
  void add_remote(int fd);

  // One entry for each connection, in their order.
  void watch(std::vector<pollfd>& watched) const;
  [[nodiscard]] bool does_anybody_wait() const;
  // Reads and writes what can be. `results`: of what watch() told, as many.
  void attend(const pollfd* results, const Site& site);
  // One pass over those who wait, or the part of it that fits before `end`; at least one answer.
  // Whether somebody may be answered now.
  bool answer_pass(const Answer& answer, Time end);
  // Closes what is over, and who was silent for 15 s.
  void close_idle();
  [[nodiscard]] std::size_t size() const { return clients_.size(); }
  // What is kept of lines and answers.
  [[nodiscard]] std::size_t bytes() const;

 private:
  // Who has places of his own. Of another node's nothing is known before a line of theirs was read.
  enum class Rank { kUnknown, kUser, kAdmin, kSlurm };
  // A line that was read and waits for its turn. It is parsed then: that takes many times the room.
  struct Waiting {
    Caller caller;
    std::string request;
    std::optional<RemoteQuestion> remote;
    FairTurns::Question turn;
  };
  struct Client {
    int fd = -1;
    Caller caller;  // A remote one's: of the line that was last read.
    Rank rank = Rank::kUnknown;
    std::string in, out;
    bool has_line_in = false;        // `in` has a whole line.
    std::optional<Waiting> waiting;  // Nothing more is read before it is answered.
    Time last_active;
    bool is_finished = false;  // Close once `out` is written.
    bool is_remote = false;    // Each of its lines says who asks.

    bool has_line() const { return waiting || has_line_in; }
    bool waits_for_us() const { return out.empty() && has_line(); }
  };

  static Rank rank_of(const Caller& caller, const Site& site);
  static void forget_lines(Client& client);
  void write_to(Client& client);
  static bool is_gone(const Client& client, short events);
  static bool is_dropped(Client& client);
  std::optional<std::string> why_no_place(const Client& newcomer);
  Client* of_who_has_most(bool is_remote, std::size_t& count);
  void turn_away(Client& client, const std::string& why);
  void put(Client& client, const std::optional<RemoteQuestion>& remote,
           const nlohmann::json& reply);
  void read_from(Client& client);
  void take_line(Client& client, const Site& site);
  bool is_answered(Client& client, const Answer& answer);

  LookUp look_up_;
  Clock clock_;
  Credentials* credentials_ = nullptr;
  std::optional<QuestionReader> questions_;
  std::vector<Client> clients_;
  FairTurns turns_;
  std::uint64_t questions_taken_ = 0;
};

}  // namespace scheduler
