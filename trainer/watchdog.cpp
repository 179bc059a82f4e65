// SPDX-License-Identifier: Apache-2.0
#include "trainer/watchdog.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <future>
#include <limits>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "trainer/start_watch.h"
#include "trainer/watch_link.h"

namespace trainer {

namespace {

// Elapsed time only, for waiting: the time of day is not read here.
double seconds_now() {
  using Seconds = std::chrono::duration<double>;
  return Seconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string describe_call(const Beat& beat) {
  if (beat.call == 0) return "before the first call";
  return fmt::format("call {}, {} of {} bytes", beat.call, beat.name.data(), beat.bytes);
}

// What a rank knows of another one.
struct Peer {
  Socket socket;
  Beat last;
  double heard = 0;
  bool has_said_bye = false;
};

class Watch {
 public:
  Watch(const Communicator& ranks, std::vector<std::string> hosts, const WatchdogOptions& options)
      : rank_(ranks.rank()),
        size_(ranks.size()),
        hosts_(std::move(hosts)),
        options_(options),
        limit_s_(options.limit_s),
        exit_code_(options.exit_code),
        period_s_(std::clamp(options.limit_s / kBeatsInLimit, 0.02, 1.0)),
        peers_(rank_ == 0 ? static_cast<std::size_t>(size_) : 1) {
    own_.rank = rank_;
  }

  ~Watch() {
    is_ending_ = true;
    if (thread_.joinable()) thread_.join();
  }

  // Rank 0.
  std::string listen() {
    std::random_device dice;
    own_.token = (static_cast<std::uint64_t>(dice()) << 32) | dice();
    listener_ = listen_anywhere();
    thread_ = std::thread([this] { serve(); });
    return describe_listener(listener_, own_.token);
  }

  // The others.
  bool connect(const std::string& description) {
    std::optional<Reached> reached = reach(description, own_, hosts_.front() == hosts_.at(at(rank_)));
    if (!reached) return false;
    own_.token = reached->token;
    peers_.front().socket = std::move(reached->socket);
    return true;
  }

  // From here on silence counts. Every rank is connected.
  void begin() {
    is_watching_ = true;
    if (rank_ > 0) thread_ = std::thread([this] { report(); });
  }

  // Without connections: `why` nobody knows who is missing, as the end of a sentence.
  void begin_alone(std::string why) {
    why_alone_ = std::move(why);
    is_watching_ = true;
    thread_ = std::thread([this] { watch_own(); });
  }

  void enter(const char* name, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    ++own_.call;
    own_.bytes = bytes;
    own_.name.fill('\0');
    std::strncpy(own_.name.data(), name, own_.name.size() - 1);
    own_.is_inside = 1;
    entered_ = seconds_now();
  }

  void leave() {
    const std::lock_guard lock(mutex_);
    own_.is_inside = 0;
  }

  // From a rank that gets on while it is in no call.
  void tick() {
    const std::lock_guard lock(mutex_);
    ticked_ = seconds_now();
  }

  void limit_waits(double seconds, int exit_code) {
    exit_code_ = seconds > 0 ? exit_code : options_.exit_code;
    limit_s_ = seconds > 0 ? std::min(seconds, options_.limit_s) : options_.limit_s;
  }

  // From the main thread of a rank that has failed.
  void take_last_word() {
    int nobody = kNobody;
    const bool is_first_here = claimed_by_.compare_exchange_strong(nobody, rank_);
    if (rank_ == 0) {
      if (is_first_here) return;
    } else if (!why_alone_.empty()) {
      return;  // There is nobody to ask.
    } else {
      Beat claim = own_beat();
      claim.kind = Beat::Kind::kClaim;
      const std::lock_guard lock(sockets_mutex_);
      peers_.front().socket.send(claim);
    }
    const double since = seconds_now();
    while (!is_granted_ && seconds_now() - since < kFarewellSeconds) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  // From the main thread of a rank that has said why.
  void tell_end(int exit_code) {
    Beat end = own_beat();
    end.kind = Beat::Kind::kEnd;
    end.exit_code = exit_code;
    const std::lock_guard lock(sockets_mutex_);
    for (const Peer& peer : peers_) peer.socket.send(end);
  }

 private:
  static constexpr double kBeatsInLimit = 20;
  static constexpr double kQuietPeriods = 3;  // Longer than that without a beat is remarkable.
  static constexpr double kFarewellSeconds = 10;
  static constexpr int kNobody = -1;

  static std::size_t at(int rank) { return static_cast<std::size_t>(rank); }
  std::string name_of(int rank) const { return fmt::format("rank {} ({})", rank, hosts_.at(at(rank))); }

  Beat own_beat() {
    const std::lock_guard lock(mutex_);
    Beat beat = own_;
    beat.inside_s = own_.is_inside != 0 ? std::max(0.0, seconds_now() - entered_) : 0;
    beat.ticked_s = ticked_ > 0 ? std::max(0.0, seconds_now() - ticked_) : -1;
    return beat;
  }

  using Missing = std::vector<LastWords::Missing>;

  [[noreturn]] void end(const std::string& message, const Missing& missing) {
    const int exit_code = exit_code_;
    if (options_.last_words) {
      // They write into the run's folder: where its file system hangs, the ranks end all the same.
      auto words = std::make_shared<std::promise<void>>();
      const std::future<void> said = words->get_future();
      std::thread([this, words, message, exit_code, missing] {
        options_.last_words({message, exit_code, missing});
        words->set_value();
      }).detach();
      said.wait_for(std::chrono::duration<double>(kFarewellSeconds / 2));
    }
    tell_end(exit_code);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));  // The beat is to leave first.
    std::_Exit(exit_code);
  }

  void sleep_on(std::vector<pollfd> sockets) const {
    ::poll(sockets.data(), sockets.size(), static_cast<int>(period_s_ * 1000));
  }

  // Time in which this process was stopped, or had no core, is nobody's silence: it is left out.
  // After a long stop the others have a while to say how they ended.
  void look() {
    const double now = seconds_now(), gap = now - looked_ - period_s_;
    looked_ = now;
    if (is_watching_ && !has_begun_) {
      has_begun_ = true;
      for (Peer& peer : peers_) peer.heard = now;
    }
    if (gap < kQuietPeriods * period_s_) return;
    for (Peer& peer : peers_) peer.heard = std::min(now, peer.heard + gap);
    if (gap > limit_s_ / 2) mute_until_ = now + kFarewellSeconds;
    const std::lock_guard lock(mutex_);
    entered_ = std::min(now, entered_ + gap);
    if (ticked_ > 0) ticked_ = std::min(now, ticked_ + gap);
  }

  // A look that is older than that says nothing any more.
  bool may_judge(double now) const {
    return has_begun_ && claimed_by_ != rank_ && now >= mute_until_ && now - looked_ < kQuietPeriods * period_s_;
  }

  // Rank 0's thread.
  void serve() {
    double told = 0, farewell_since = 0;
    looked_ = seconds_now();
    for (;;) {
      std::vector<pollfd> sockets = {{.fd = listener_.descriptor(), .events = POLLIN, .revents = 0}};
      for (const Peer& peer : peers_) {
        if (peer.socket.is_open()) {
          sockets.push_back({.fd = peer.socket.descriptor(), .events = POLLIN, .revents = 0});
        }
      }
      sleep_on(std::move(sockets));
      look();
      welcome();
      for (Peer& peer : peers_) read(peer);
      const double now = seconds_now();
      if (now - told >= period_s_) {
        told = now;
        const Beat beat = own_beat();
        for (const Peer& peer : peers_) peer.socket.send(beat);
      }
      if (is_ending_) {
        if (farewell_since == 0) farewell_since = now;
        if (all_are_gone() || now - farewell_since > kFarewellSeconds) return say_bye();
      } else if (may_judge(now)) {
        judge(now);
      }
    }
  }

  void welcome() {
    while (std::optional<Socket> socket = accept_one(listener_)) strangers_.push_back(std::move(*socket));
    for (Socket& socket : strangers_) {
      for (const Beat& beat : socket.receive()) {
        if (beat.token != own_.token || beat.rank <= 0 || beat.rank >= size_) continue;
        Peer& peer = peers_.at(at(beat.rank));
        socket.send(own_beat());
        peer.last = beat;
        peer.heard = seconds_now();
        const std::lock_guard lock(sockets_mutex_);
        peer.socket = std::move(socket);
        break;
      }
    }
    std::erase_if(strangers_, [](const Socket& socket) { return !socket.is_open(); });
  }

  std::vector<Beat> receive(Peer& peer) {
    const std::lock_guard lock(sockets_mutex_);
    return peer.socket.receive();
  }

  void read(Peer& peer) {
    for (const Beat& beat : receive(peer)) {
      peer.heard = seconds_now();
      if (beat.kind == Beat::Kind::kEnd) {
        if (rank_ == 0) tell_end(beat.exit_code);
        std::_Exit(beat.exit_code);  // The rank that ended it has said why.
      }
      if (beat.kind == Beat::Kind::kClaim) grant(peer, beat.rank);
      if (beat.kind == Beat::Kind::kGrant) is_granted_ = true;
      if (beat.kind == Beat::Kind::kBye) {
        peer.has_said_bye = true;
        const std::lock_guard lock(sockets_mutex_);
        peer.socket.close();
        return;
      }
      peer.last = beat;
    }
  }

  // Rank 0, once: whoever comes later is ended by the first.
  void grant(const Peer& peer, int rank) {
    int nobody = kNobody;
    if (!claimed_by_.compare_exchange_strong(nobody, rank)) return;
    mute_until_ = seconds_now() + kFarewellSeconds;
    Beat granted = own_beat();
    granted.kind = Beat::Kind::kGrant;
    peer.socket.send(granted);
  }

  bool all_are_gone() const {
    return std::none_of(peers_.begin(), peers_.end(),
                        [](const Peer& peer) { return peer.socket.is_open(); });
  }

  void say_bye() {
    Beat bye = own_beat();
    bye.kind = Beat::Kind::kBye;
    for (const Peer& peer : peers_) peer.socket.send(bye);
  }

  // What keeps the others waiting, in words: empty where nothing does.
  std::string silence_of(int rank, double now, double allowed_s) const {
    const Peer& peer = peers_.at(at(rank));
    if (peer.has_said_bye) return {};
    if (!peer.socket.is_open()) {
      return fmt::format("{} is gone: its process ended without a word, after {}", name_of(rank),
                         describe_call(peer.last));
    }
    if (now - peer.heard <= allowed_s) return {};
    return fmt::format("{} has been silent for {:.1f} s, after {}", name_of(rank), now - peer.heard,
                       describe_call(peer.last));
  }

  // Those that are gone, or silent for longer than allowed; and with them those that fell silent at the
  // same time, which one look may find on this side of the limit and the next beyond it.
  Missing silent_ranks(double now, double allowed_s) const {
    Missing silent;
    const double quiet_s = kQuietPeriods * period_s_;
    for (const double allowed : {allowed_s, std::max(quiet_s, allowed_s - quiet_s)}) {
      silent.clear();
      for (int rank = 1; rank < size_; ++rank) {
        std::string why = silence_of(rank, now, allowed);
        if (!why.empty()) silent.push_back({rank, hosts_.at(at(rank)), std::move(why)});
      }
      if (silent.empty()) break;
    }
    return silent;
  }

  // Rank 0 hears its own host and nobody else: where all ranks of two hosts or more fell silent at the
  // same time, it is not they that are lost.
  bool is_own_host_cut_off(const Missing& silent) const {
    std::set<std::string> hosts;
    double first = std::numeric_limits<double>::infinity(), last = 0;
    for (const LastWords::Missing& each : silent) {
      const Peer& peer = peers_.at(at(each.rank));
      if (!peer.socket.is_open()) return false;  // It told that its process ended.
      hosts.insert(each.host);
      first = std::min(first, peer.heard);
      last = std::max(last, peer.heard);
    }
    const auto here = std::count(hosts_.begin(), hosts_.end(), hosts_.front());
    return hosts.size() >= 2 && !hosts.contains(hosts_.front()) &&
           static_cast<std::ptrdiff_t>(silent.size()) == size_ - here &&
           last - first <= kQuietPeriods * period_s_;
  }

  Missing own_host(double now, const Missing& silent) const {
    Missing cut_off;
    for (int rank = 0; rank < size_; ++rank) {
      if (hosts_.at(at(rank)) != hosts_.front()) continue;
      cut_off.push_back({rank, hosts_.front(), fmt::format("{} is cut off", name_of(rank))});
    }
    cut_off.front().problem =
        fmt::format("{}, the host of rank 0, is cut off: all {} ranks of the other hosts fell silent at "
                    "once, {:.1f} s ago",
                    hosts_.front(), silent.size(), now - peers_.at(at(silent.front().rank)).heard);
    return cut_off;
  }

  void judge(double now) {
    Beat waiting = own_beat();
    for (const Peer& peer : peers_) {
      if (peer.last.is_inside != 0 && peer.last.inside_s > waiting.inside_s) waiting = peer.last;
    }
    const bool is_stuck =
        waiting.is_inside != 0 && waiting.inside_s > limit_s_ && now - last_tick(now) > limit_s_;
    const std::uint64_t call = is_stuck ? latest_call() : 0;
    const Beat own = own_beat();
    Missing silent = silent_ranks(now, is_stuck ? kQuietPeriods * period_s_ : limit_s_.load());
    Missing absent;
    if (is_stuck && own.call < call) absent.push_back({0, hosts_.front(), absence_of(own)});
    for (int rank = 1; rank < size_ && is_stuck && silent.empty(); ++rank) {
      const Beat& last = peers_.at(at(rank)).last;
      if (last.call < call) absent.push_back({rank, hosts_.at(at(rank)), absence_of(last)});
    }
    if (is_own_host_cut_off(silent)) silent = own_host(now, silent);
    // Whom a silent rank keeps waiting in one call is late for the next, and not to blame.
    const Missing& missing = silent.empty() ? absent : silent;
    if (!is_stuck && missing.empty()) return;
    std::string message;
    for (const LastWords::Missing& each : missing) {
      message += (message.empty() ? "" : "; ") + each.problem;
    }
    if (missing.empty()) message = "all ranks are in the same call, and it does not end";
    if (is_stuck) {
      message += fmt::format(". {} has waited {:.1f} s in {} (limit {} s)", name_of(waiting.rank),
                             waiting.inside_s, describe_call(waiting), limit_s_.load());
    }
    end("watchdog: " + message + ".", missing);
  }

  // When a rank said last that it gets on: those that wait for it wait from then on. One that sends
  // no beats any more is silent all the same.
  double last_tick(double now) {
    const Beat own = own_beat();
    double last = own.ticked_s < 0 ? 0 : now - own.ticked_s;
    for (const Peer& peer : peers_) {
      if (peer.last.ticked_s >= 0) last = std::max(last, peer.heard - peer.last.ticked_s);
    }
    return last;
  }

  std::uint64_t latest_call() {
    std::uint64_t call = own_beat().call;
    for (const Peer& peer : peers_) call = std::max(call, peer.last.call);
    return call;
  }

  std::string absence_of(const Beat& last) const {
    return fmt::format("{} is missing: {} {}", name_of(last.rank),
                       last.is_inside != 0 ? "it is in" : "it went on with something else after",
                       describe_call(last));
  }

  // How long a rank waits until it speaks for rank 0: rank 1 of the same host speaks at once, and the
  // launcher ends the others. Where that is lost too, with rank 0's host perhaps, the first rank of
  // another host does, then whoever is left. That one shall not be first with the word: it may be the
  // one that is cut off, and rank 0 is about to say so.
  double turn_s() const {
    if (rank_ == 1 && hosts_.at(1) == hosts_.front()) return 0;
    const auto elsewhere = std::find_if(hosts_.begin(), hosts_.end(),
                                        [this](const std::string& host) { return host != hosts_.front(); });
    if (elsewhere == hosts_.begin() + rank_) return kFarewellSeconds;
    constexpr int kTurnsMax = 3;
    return kFarewellSeconds * std::min(rank_ - (elsewhere == hosts_.end() ? 1 : 0), kTurnsMax);
  }

  // The thread of the others.
  void report() {
    Peer& first = peers_.front();
    double silent_since = 0;
    looked_ = seconds_now();
    while (!is_ending_) {
      first.socket.send(own_beat());
      sleep_on({{.fd = first.socket.descriptor(), .events = POLLIN, .revents = 0}});
      look();
      read(first);
      if (first.has_said_bye || is_ending_) break;
      const double now = seconds_now();
      if (!may_judge(now)) continue;
      std::string why = silence_of(0, now, limit_s_);
      if (why.empty()) silent_since = 0;
      if (why.empty()) continue;
      if (silent_since == 0) silent_since = now;
      if (now - silent_since < turn_s()) continue;
      end("watchdog: " + why + ".", {{0, hosts_.front(), why}});
    }
    say_bye();
    const double since = seconds_now();
    // Until rank 0 has read it: closing earlier could throw it away.
    while (first.socket.is_open() && seconds_now() - since < kFarewellSeconds) {
      sleep_on({{.fd = first.socket.descriptor(), .events = POLLIN, .revents = 0}});
      read(first);
    }
  }

  // The thread of a rank alone. They take turns, so that one speaks and the launcher ends the others.
  void watch_own() {
    constexpr int kTurnsMax = 3;
    looked_ = seconds_now();
    while (!is_ending_) {
      sleep_on({});
      look();
      const double now = seconds_now();
      const Beat own = own_beat();
      const double limit_s = limit_s_;
      if (!may_judge(now) || own.is_inside == 0 ||
          own.inside_s <= limit_s + kFarewellSeconds * std::min(rank_, kTurnsMax)) {
        continue;
      }
      end(fmt::format("watchdog: {} has waited {:.1f} s in {} (limit {} s). Which rank is missing is "
                      "not known: {}.",
                      name_of(rank_), own.inside_s, describe_call(own), limit_s, why_alone_),
          {});
    }
  }

  int rank_, size_;
  std::vector<std::string> hosts_;
  const WatchdogOptions options_;
  std::atomic<double> limit_s_;
  std::atomic<int> exit_code_;
  double period_s_;
  std::string why_alone_;  // Not empty: without connections.
  std::mutex mutex_;       // Guards own_, entered_ and ticked_.
  // For the main thread to send beside the watch's own, which alone opens, reads and closes them.
  std::mutex sockets_mutex_;
  Beat own_;
  double entered_ = 0, ticked_ = 0;
  std::atomic<bool> is_ending_ = false, is_watching_ = false, is_granted_ = false;
  std::atomic<int> claimed_by_ = kNobody;  // The rank that says why it failed; rank 0 decides.
  double looked_ = 0, mute_until_ = 0;     // Of the thread alone, as all of peers_ but sockets to send on.
  bool has_begun_ = false;                 // Of the thread alone: it has seen is_watching_.
  Socket listener_;
  std::vector<Socket> strangers_;
  std::vector<Peer> peers_;  // Of rank 0: all, its own place empty. Of the others: rank 0.
  std::thread thread_;
};

// Tells the watch of every call.
class WatchedCommunicator : public Communicator {
 public:
  WatchedCommunicator(std::unique_ptr<Communicator> inner, std::unique_ptr<Watch> watch,
                      const WatchdogOptions& options)
      : inner_(std::move(inner)), watch_(std::move(watch)), options_(options) {}

  // The end of MPI and of NCCL waits for all ranks too, when the watch's connections are gone.
  ~WatchedCommunicator() override {
    watch_.reset();
    const StartWatch end({.limit_s = options_.limit_s,
                          .exit_code = options_.exit_code,
                          .last_words =
                              [this](LastWords words) {
                                words.is_over = true;
                                if (options_.last_words) options_.last_words(words);
                              },
                          .what = "for all ranks to leave"});
    inner_.reset();
  }

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  int local_rank() const override { return inner_->local_rank(); }
  std::string host() const override { return inner_->host(); }

  void all_reduce_sum(std::span<float> values) override {
    const Scope scope(*watch_, "all_reduce_sum", values.size_bytes());
    inner_->all_reduce_sum(values);
  }
  void all_reduce_sum(std::span<double> values) override {
    const Scope scope(*watch_, "all_reduce_sum", values.size_bytes());
    inner_->all_reduce_sum(values);
  }
  void all_reduce_max(std::span<std::int64_t> values) override {
    const Scope scope(*watch_, "all_reduce_max", values.size_bytes());
    inner_->all_reduce_max(values);
  }
  void broadcast(std::span<std::byte> bytes, int root) override {
    const Scope scope(*watch_, "broadcast", bytes.size());
    inner_->broadcast(bytes, root);
  }
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> bytes) override {
    const Scope scope(*watch_, "all_gather", bytes.size());
    return inner_->all_gather(bytes);
  }
  void barrier() override {
    const Scope scope(*watch_, "barrier", 0);
    inner_->barrier();
  }
  Ticket start_sum(const SumRequest& request) override {
    const Ticket ticket = inner_->start_sum(request);
    sizes_[ticket % sizes_.size()] = request.values.size_bytes();
    return ticket;
  }
  Ticket start_device_sum(const DeviceSum& request) override {
    constexpr std::size_t kFloatBytes = 4, kHalfBytes = 2;
    const std::size_t bytes =
        request.count * (request.type == Wire::kFloat32 ? kFloatBytes : kHalfBytes);
    // A library's first sum of a kind connects the ranks and waits for them.
    const Scope scope(*watch_, "start of a gradient sum", bytes);
    const Ticket ticket = inner_->start_device_sum(request);
    sizes_[ticket % sizes_.size()] = bytes;
    return ticket;
  }
  bool sums_on_device() const override { return inner_->sums_on_device(); }
  double wait(Ticket ticket) override {
    const Scope scope(*watch_, "gradient sum", sizes_[ticket % sizes_.size()]);
    return inner_->wait(ticket);
  }
  void advance() override { inner_->advance(); }
  void limit_waits(double seconds, int exit_code) override {
    watch_->limit_waits(seconds, exit_code);
  }
  void take_last_word() override { watch_->take_last_word(); }
  void tick() override { watch_->tick(); }

  [[noreturn]] void abort(int exit_code) override {
    watch_->tell_end(exit_code);
    inner_->abort(exit_code);
    std::_Exit(exit_code);
  }

 private:
  struct Scope {
    Scope(Watch& told, const char* name, std::size_t bytes) : watch(told) {
      watch.enter(name, bytes);
    }
    ~Scope() { watch.leave(); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    Watch& watch;
  };

  std::unique_ptr<Communicator> inner_;
  std::unique_ptr<Watch> watch_;
  const WatchdogOptions options_;
  std::array<std::size_t, 1024> sizes_{};  // Of the sums under way, for the message.
};

std::vector<std::string> gather_text(Communicator& ranks, const std::string& own) {
  std::vector<std::string> all;
  for (const auto& bytes : ranks.all_gather(std::as_bytes(std::span(own)))) {
    all.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return all;
}

}  // namespace

std::unique_ptr<Communicator> watched(std::unique_ptr<Communicator> inner,
                                      const WatchdogOptions& options, std::string* note) {
  if (inner->size() == 1 || options.limit_s <= 0) return inner;
  const std::vector<std::string> hosts = gather_text(*inner, inner->host());
  auto watch = std::make_unique<Watch>(*inner, hosts, options);
  const std::string description =
      gather_text(*inner, inner->rank() == 0 ? watch->listen() : std::string()).front();
  const bool is_reached = inner->rank() == 0 || watch->connect(description);
  std::int64_t unreached = is_reached ? -1 : inner->rank();
  inner->all_reduce_max(std::span<std::int64_t>(&unreached, 1));
  if (unreached >= 0) {
    const std::string why =
        fmt::format("rank {} ({}) cannot reach rank 0 ({}) over TCP", unreached,
                    hosts.at(static_cast<std::size_t>(unreached)), hosts.front());
    *note = fmt::format(
        "{}: each rank watches itself alone. A hang of more than {} s ends the run, but the rank "
        "that hangs cannot be named.",
        why, options.limit_s);
    watch = std::make_unique<Watch>(*inner, hosts, options);
    watch->begin_alone(why);
  } else {
    watch->begin();
  }
  return std::make_unique<WatchedCommunicator>(std::move(inner), std::move(watch), options);
}

}  // namespace trainer
