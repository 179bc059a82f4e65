// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/connections.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "scheduler/answers.h"

namespace scheduler {
namespace {

using nlohmann::json;

constexpr std::chrono::seconds kIdleMax{15};
// By Rank, up to the admins: Slurm has what is left of all, 192 and 48.
constexpr std::array<std::size_t, 3> kPlaces{0, Connections::kUserPlaces, 64};
constexpr std::array<std::size_t, 3> kRemotePlaces{64, Connections::kUserPlacesRemote, 16};
constexpr std::size_t kAllPlaces = 512, kAllRemotePlaces = 256;

// What leaves the books as they are, and a payment's message, which counts by its signature.
bool is_change(const json& request) {
  static constexpr std::array<std::string_view, 18> kReads{
      "hello", "list",   "show",     "funds",  "fund", "statement", "usage", "tiers",  "estimates",
      "gate",  "prices", "receipts", "export", "acts", "burn_down", "audit", "backup", "webhook"};
  const auto verb = request.find("verb");
  if (verb == request.end() || !verb->is_string()) return true;
  const auto& name = verb->get_ref<const std::string&>();
  return std::find(kReads.begin(), kReads.end(), name) == kReads.end();
}

Expected<Caller> caller_of(int fd, const Site& site, const Connections::LookUp& look_up) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return tl::unexpected(Error{fmt::format("SO_PEERCRED: {}", std::strerror(errno))});
  }
  return look_up(peer.uid, site);
}

std::string text_of(const json& reply) {
  return reply.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

Connections::~Connections() {
  for (const Client& client : clients_) close(client.fd);
}

Connections::Rank Connections::rank_of(const Caller& caller, const Site& site) {
  if (caller.uid == 0 || caller.user == site.managed.slurm_user) return Rank::kSlurm;
  return caller.is_admin ? Rank::kAdmin : Rank::kUser;
}

bool Connections::has_room(bool is_remote) const {
  const auto count = std::count_if(clients_.begin(), clients_.end(), [&](const Client& client) {
    return client.is_remote == is_remote;
  });
  return static_cast<std::size_t>(count) < (is_remote ? kAllRemotePlaces : kAllPlaces);
}

std::size_t Connections::bytes() const {
  std::size_t sum = 0;
  for (const Client& client : clients_) {
    sum += client.in.size() + client.out.size();
    if (client.waiting) sum += client.waiting->request.size();
  }
  return sum;
}

void Connections::add(int fd, const Site& site) {
  Client client;
  client.fd = fd;
  client.last_active = clock_();
  if (auto caller = caller_of(fd, site, look_up_)) {
    client.caller = std::move(*caller);
    client.rank = rank_of(client.caller, site);
    if (const auto why = why_no_place(client)) turn_away(client, *why);
  } else {
    put(client, std::nullopt, failed(caller.error().message));
    client.is_finished = true;
  }
  write_to(client);
  clients_.push_back(std::move(client));
}

void Connections::add_remote(int fd) {
  // Who has said nothing for the longest time makes way: a client sends its line at once.
  const auto is_unknown = [](const Client& client) {
    return client.is_remote && client.rank == Rank::kUnknown && !client.is_finished;
  };
  Client* silent = nullptr;
  std::size_t count = 0;
  for (Client& each : clients_) {
    if (!is_unknown(each)) continue;
    ++count;
    if (silent == nullptr || each.last_active < silent->last_active) silent = &each;
  }
  if (count >= kRemotePlaces[0]) turn_away(*silent, "many connect, and this one said nothing");
  Client client;
  client.fd = fd;
  client.is_remote = true;
  client.last_active = clock_();
  clients_.push_back(std::move(client));
}

// The newest connection of the user who has the most, and how many those are.
Connections::Client* Connections::of_who_has_most(bool is_remote, std::size_t& count) {
  std::map<std::uint32_t, std::pair<std::size_t, Client*>> by_user;
  for (Client& each : clients_) {
    const bool is_counted = each.is_remote == is_remote && each.rank == Rank::kUser &&
                            !each.is_finished && each.out.empty();
    if (!is_counted) continue;
    auto& [connections, newest] = by_user[each.caller.uid];
    ++connections;
    newest = &each;
  }
  const auto most = std::max_element(by_user.begin(), by_user.end(), [](auto& left, auto& right) {
    return left.second.first < right.second.first;
  });
  count = most == by_user.end() ? 0 : most->second.first;
  return most == by_user.end() ? nullptr : most->second.second;
}

// Takes a place from another where the newcomer is to have it. The reason where he gets none.
std::optional<std::string> Connections::why_no_place(const Client& newcomer) {
  std::size_t own = 0, of_rank = 0;
  for (const Client& each : clients_) {
    const bool is_counted = &each != &newcomer && each.is_remote == newcomer.is_remote &&
                            each.rank == newcomer.rank && !each.is_finished;
    if (!is_counted) continue;
    ++of_rank;
    if (each.caller.uid == newcomer.caller.uid) ++own;
  }
  // Many gates ask at once, and one that is turned away puts its job back into the queue.
  if (newcomer.rank == Rank::kSlurm) return std::nullopt;
  const auto& places = newcomer.is_remote ? kRemotePlaces : kPlaces;
  const std::size_t all = places[static_cast<std::size_t>(newcomer.rank)];
  const std::size_t share = newcomer.is_remote ? kPlacesOfOneRemote : kPlacesOfOne;
  if (newcomer.rank == Rank::kUser && own >= share) {
    return fmt::format(
        "{} has {} connections to the service, and may have no more at once. Try again",
        newcomer.caller.user, own);
  }
  if (of_rank < all) return std::nullopt;
  std::size_t most = 0;
  Client* other =
      newcomer.rank == Rank::kUser ? of_who_has_most(newcomer.is_remote, most) : nullptr;
  if (other == nullptr || most < own + 2) {
    return fmt::format("all {} places of the service are taken, {} of them by {}. Try again", all,
                       own, newcomer.caller.user);
  }
  turn_away(*other,
            fmt::format("all {} places of the service are taken, {} of them by {}: this one "
                        "goes to another user. Nothing of it was executed. Try again",
                        all, most, other->caller.user));
  return std::nullopt;
}

void Connections::turn_away(Client& client, const std::string& why) {
  const std::optional<RemoteQuestion> remote =
      client.waiting ? client.waiting->remote : std::nullopt;
  forget_lines(client);
  put(client, remote, refused({why}));
  client.is_finished = true;
  write_to(client);
}

void Connections::forget_lines(Client& client) {
  client.in.clear();
  client.has_line_in = false;
  client.waiting.reset();
}

// Its client closed it, so that nobody would read an answer. One that has only sent all that it
// will is there still, but over TCP: there the two look alike, and no client of ours does that.
bool Connections::is_gone(const Client& client, short events) {
  const int gone = POLLHUP | POLLERR | (client.is_remote ? POLLRDHUP : 0);
  return (events & gone) != 0;
}

// Looks once more before something is executed; what a client that left has asked is not.
bool Connections::is_dropped(Client& client) {
  pollfd look{client.fd, POLLRDHUP, 0};
  if (poll(&look, 1, 0) != 1 || !is_gone(client, look.revents)) return false;
  forget_lines(client);
  client.is_finished = true;
  return true;
}

// An answer to what came from another node is sealed for who asked.
void Connections::put(Client& client, const std::optional<RemoteQuestion>& remote,
                      const json& reply) {
  std::string text = text_of(reply);
  if (remote) {
    const auto sealed = seal_answer(*credentials_, *remote, text);
    text = sealed ? *sealed : text_of(failed(sealed.error().message));
  }
  client.out += text + "\n";
  client.last_active = clock_();
}

void Connections::watch(std::vector<pollfd>& watched) const {
  for (const Client& client : clients_) {
    // Of one that waits a hang-up alone is of interest; POLLHUP and POLLERR are told unasked.
    int events = POLLIN;
    if (!client.out.empty()) {
      events = POLLOUT;
    } else if (client.has_line() || client.is_finished) {
      events = client.is_remote ? POLLRDHUP : 0;
    }
    watched.push_back({client.fd, static_cast<short>(events), 0});
  }
}

bool Connections::does_anybody_wait() const {
  return std::any_of(clients_.begin(), clients_.end(),
                     [](const Client& client) { return client.waits_for_us(); });
}

void Connections::attend(const pollfd* results, const Site& site) {
  for (std::size_t i = 0; i < clients_.size(); ++i) {
    Client& client = clients_[i];
    if (client.waits_for_us() && is_gone(client, results[i].revents)) {
      forget_lines(client);
      client.is_finished = true;
    } else if (results[i].revents != 0 && client.out.empty()) {
      read_from(client);
    }
    take_line(client, site);
    write_to(client);
  }
}

// Reads until there is a line; what is behind it stays with the client for now.
void Connections::read_from(Client& client) {
  char buffer[16384];
  while (!client.is_finished && !client.has_line()) {
    const ssize_t got = read(client.fd, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (got <= 0) {
      client.is_finished = true;
      break;
    }
    client.in.append(buffer, static_cast<std::size_t>(got));
    const char* end = std::find(buffer, buffer + got, '\n');
    client.has_line_in = end != buffer + got;
    client.last_active = clock_();
    const std::size_t length = client.in.size() - static_cast<std::size_t>(buffer + got - end);
    if (length > kRequestBytesMax) {
      forget_lines(client);
      put(client, std::nullopt,
          bad_request(fmt::format("a request is longer than {} bytes", kRequestBytesMax)));
      client.is_finished = true;
    }
  }
}

// Makes the client's next line a question that waits for its turn. One of another node that cannot
// be opened is answered at once, without a credential: there is nobody whom it could be for.
void Connections::take_line(Client& client, const Site& site) {
  if (client.waiting || !client.out.empty() || !client.has_line_in) return;
  const std::size_t end = client.in.find('\n');
  Waiting next;
  std::string line = client.in.substr(0, end);
  client.in.erase(0, end + 1);
  client.has_line_in = client.in.find('\n') != std::string::npos;
  if (client.is_remote) {
    auto question = questions_->open(line, clock_());
    if (!question) return put(client, std::nullopt, refused({question.error().message}));
    next.remote = std::move(*question);
    const auto caller = look_up_(next.remote->uid, site);
    if (!caller) return put(client, next.remote, failed(caller.error().message));
    client.caller = *caller;
    client.rank = rank_of(*caller, site);
    line = next.remote->text;
  }
  next.request = std::move(line);
  next.caller = client.caller;
  next.turn = {.uid = client.caller.uid,
               .number = ++questions_taken_,
               .is_change = false,  // Not known before it is parsed.
               .is_trusted = client.rank != Rank::kUser};
  client.waiting = std::move(next);
  if (!client.is_remote) return;
  if (const auto why = why_no_place(client)) turn_away(client, *why);
}

// Not where it is a change too many: it waits on, and is known to be one.
bool Connections::is_answered(Client& client, const Answer& answer) {
  const json request = json::parse(client.waiting->request, nullptr, false);
  json reply = bad_request("the request is no JSON object");
  if (request.is_object()) {
    FairTurns::Question& turn = client.waiting->turn;
    turn.is_change = is_change(request);
    if (!turns_.may_be_answered(turn, clock_())) return false;
    reply = answer(client.waiting->caller, request);
  }
  const Waiting done = std::move(*client.waiting);
  client.waiting.reset();
  put(client, done.remote, reply);
  turns_.answered(done.turn, clock_());
  write_to(client);
  return true;
}

bool Connections::answer_pass(const Answer& answer, Time end) {
  std::vector<FairTurns::Question> waiting;
  std::vector<std::size_t> of_client;
  for (std::size_t i = 0; i < clients_.size(); ++i) {
    if (!clients_[i].waiting || is_dropped(clients_[i])) continue;
    waiting.push_back(clients_[i].waiting->turn);
    of_client.push_back(i);
  }
  const auto order = turns_.pass(waiting, clock_());
  for (const std::size_t position : order) {
    Client& client = clients_[of_client[position]];
    if (is_dropped(client)) continue;  // He left while others were answered.
    if (is_answered(client, answer) && clock_() >= end) break;
  }
  return !order.empty();
}

void Connections::write_to(Client& client) {
  while (!client.out.empty()) {
    const ssize_t sent = send(client.fd, client.out.data(), client.out.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (sent <= 0) {
      // Nobody is there to be answered.
      client.out.clear();
      forget_lines(client);
      client.is_finished = true;
      return;
    }
    client.last_active = clock_();
    client.out.erase(0, static_cast<std::size_t>(sent));
  }
}

void Connections::close_idle() {
  const Time now = clock_();
  std::erase_if(clients_, [&](const Client& client) {
    const bool is_over = !client.waits_for_us() && ((client.is_finished && client.out.empty()) ||
                                                    client.last_active < now - kIdleMax);
    if (is_over) close(client.fd);
    return is_over;
  });
}

}  // namespace scheduler
