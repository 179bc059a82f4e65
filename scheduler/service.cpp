// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/service.h"

#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/statement.h"
#include "scheduler/answers.h"
#include "scheduler/books_desk.h"

namespace scheduler {
namespace {

using nlohmann::json;

constexpr std::size_t kRequestBytesMax = 1 << 20;
constexpr std::size_t kClientsMax = 256;
constexpr int kIdleSecondsMax = 15;

json fund_to_json(const accounting::FundBalance& balance) {
  return {{"fund", balance.fund},
          {"available", balance.available.milli_gpu_s},
          {"held", balance.held.milli_gpu_s},
          {"granted", balance.granted.milli_gpu_s},
          {"charged", balance.charged.milli_gpu_s},
          {"owed", balance.owed.milli_gpu_s},
          {"later", balance.later.milli_gpu_s},
          {"expired", balance.expired.milli_gpu_s},
          {"credit_limit", balance.credit_limit.milli_gpu_s}};
}

json job_to_json(const JobSnapshot& job) {
  return {{"id", job.id},           {"state", to_name(job.state)}, {"reason", job.reason},
          {"nodes", job.nodes},     {"partition", job.partition},  {"start", job.start},
          {"submit", job.submit},   {"time_limit_s", job.time_limit_s},
          {"attempt", job.attempt}, {"gpus", job.gpus}};
}

json run_to_json(const Dispatcher::RunView& view, bool with_request) {
  const Run& run = view.run;
  json segments = json::array();
  for (const Segment& segment : run.segments) {
    json charges = json::array();
    for (const AttemptCharged& charge : segment.charges) {
      charges.push_back({{"job", charge.job},
                         {"attempt", charge.attempt},
                         {"state", to_name(charge.state)},
                         {"start", charge.start},
                         {"end", charge.end},
                         {"seconds", charge.end - charge.start},
                         {"gpus", charge.gpus},
                         {"weight_milli", segment.plan.quote.weight_milli},
                         {"charged", charge.charged.milli_gpu_s},
                         {"excess", charge.excess.milli_gpu_s},
                         {"refunded", charge.refunded.milli_gpu_s}});
    }
    json entry = {{"segment", segment.index},
                  {"plan", segment.plan},
                  {"hold_id", segment.hold_id},
                  {"opened", segment.opened},
                  {"job", segment.job ? json(*segment.job) : json(nullptr)},
                  {"charges", std::move(charges)},
                  {"outcome", segment.closed ? json(to_name(segment.closed->outcome)) : json(nullptr)},
                  {"reason", segment.closed ? json(segment.closed->reason) : json(nullptr)}};
    if (segment.running) {
      entry["nodes"] = segment.running->nodes;
      entry["start"] = segment.running->start;
    }
    if (segment.ended) {
      entry["slurm_state"] = to_name(segment.ended->state);
      entry["exit_code"] = segment.ended->exit_code;
      entry["end"] = segment.ended->end;
    }
    segments.push_back(std::move(entry));
  }
  json out = {{"run", run.id},
              {"user", run.about.user},
              {"uid", run.about.uid},
              {"name", run.about.name},
              {"fund", run.last().plan.fund},
              {"run_dir", run.about.run_dir},
              {"state", to_name(run.state)},
              {"reason", run.reason},
              {"created", run.created},
              {"ended", run.ended},
              {"charged", run.charged().milli_gpu_s},
              {"held", is_terminal(run.state) ? 0 : run.last().remaining().milli_gpu_s},
              {"allocated_s", run.allocated_s()},
              {"segments", std::move(segments)},
              {"job", view.job ? job_to_json(*view.job) : json(nullptr)}};
  if (with_request) out["request"] = run.about.request;
  return out;
}

json answer_admit(Dispatcher& dispatcher, const Caller& caller, const json& request, UtcSeconds now) {
  Admission admission;
  admission.run_id = request.at("run");
  admission.segment = request.at("segment");
  admission.run_dir = request.at("run_dir");
  admission.request = request.at("request").get<TrainingRequest>();
  admission.data = {request.at("train_images"), request.at("val_images")};
  admission.epochs_done = request.value("epochs_done", 0);
  admission.quote = request.value("quote", "");
  const auto outcome = dispatcher.admit(caller, admission, now);
  if (!outcome) return failed(outcome.error().message);
  if (const auto* refusal = std::get_if<Refusal>(&*outcome)) return refused(refusal->reasons);
  const Admitted& admitted = std::get<Admitted>(*outcome);
  return good({{"plan", admitted.plan}, {"hold_id", admitted.hold_id}, {"was_known", admitted.was_known}});
}

json answer_statement(Dispatcher& dispatcher, const Caller& caller, const json& request) {
  std::string fund = request.value("fund", "");
  const std::string run = request.value("run", "");
  if (!run.empty()) {
    const auto view = dispatcher.find(run);
    if (!view) return failed(view.error().message);
    if (!*view) return refused({"run " + run + " is not known"});
    const auto& about = (*view)->run.about;
    if (about.uid != caller.uid && !may_see_fund(caller, about.fund)) {
      return refused({fmt::format("run {} belongs to {}", run, about.user)});
    }
  } else {
    if (fund.empty()) fund = "user:" + caller.user;
    if (!may_see_fund(caller, fund)) {
      return refused({fmt::format("fund {} is not yours to see", fund)});
    }
  }
  const auto lines = dispatcher.ledger().lines(run.empty() ? fund : "", run);
  if (!lines) return failed(lines.error().message);
  const std::string format = request.value("format", "text");
  std::string body;
  if (format == "json") {
    return good({{"lines", json::parse(accounting::statement_json(*lines))}});
  }
  if (format == "csv") {
    body = accounting::statement_csv(*lines);
  } else if (format == "text") {
    body = accounting::statement_text(*lines);
  } else {
    return bad_request("format " + format + " is none of text, csv, json");
  }
  return good({{"body", body}});
}

json answer_funds(Dispatcher& dispatcher, const Caller& caller) {
  const auto balances = dispatcher.ledger().balances();
  if (!balances) return failed(balances.error().message);
  json out = json::array();
  for (const auto& balance : *balances) {
    if (may_see_fund(caller, balance.fund)) out.push_back(fund_to_json(balance));
  }
  return good({{"funds", std::move(out)}});
}

json answer_list(Dispatcher& dispatcher, const Caller& caller, const json& request) {
  const bool all = request.value("all", false);
  if (all && !caller.is_admin) return refused({"only an admin sees everybody's runs"});
  const auto views =
      dispatcher.latest(all ? "" : caller.user, std::clamp(request.value("count", 20), 1, 10'000));
  if (!views) return failed(views.error().message);
  json out = json::array();
  for (const auto& view : *views) out.push_back(run_to_json(view, false));
  return good({{"runs", std::move(out)}, {"trouble", dispatcher.trouble()}});
}

json answer_show(Dispatcher& dispatcher, const Caller& caller, const json& request) {
  const std::string id = request.at("run");
  const auto view = dispatcher.find(id);
  if (!view) return failed(view.error().message);
  if (!*view) return refused({"run " + id + " is not known"});
  const Run& run = (*view)->run;
  if (run.about.uid != caller.uid && !may_see_fund(caller, run.about.fund)) {
    return refused({fmt::format("run {} belongs to {}", id, run.about.user)});
  }
  json out = run_to_json(**view, true);
  out["trouble"] = dispatcher.trouble();
  return good(std::move(out));
}

json answer_grant(Dispatcher& dispatcher, const Caller& caller, const json& request, UtcSeconds now) {
  if (!caller.is_admin) {
    return refused({fmt::format("{} is not an admin of Trainyard (admin_users and admin_groups of "
                                "site.toml)", caller.user)});
  }
  accounting::Grant grant;
  grant.id = request.at("id");
  grant.fund = request.at("fund");
  grant.amount.milli_gpu_s = request.at("amount");
  grant.actor = caller.user;
  grant.note = request.value("note", "");
  grant.from = request.value("from", std::int64_t{0});
  grant.expires = request.value("expires", std::int64_t{0});
  const auto status = dispatcher.ledger().grant(grant, now);
  if (!status) return failed(status.error().message);
  switch (*status) {
    case accounting::GrantStatus::kGranted:
    case accounting::GrantStatus::kAlreadyGranted: break;
    case accounting::GrantStatus::kExistsWithDifferentContent:
      return refused({fmt::format("grant {} exists with other content", grant.id)});
    case accounting::GrantStatus::kInvalid:
      return refused({fmt::format("{} to \"{}\" is no grant: a fund is user:NAME or group:NAME, an "
                                  "amount is above zero, an expiry lies ahead", accounting::to_gpu_hours(grant.amount),
                                  grant.fund)});
  }
  const auto balance = dispatcher.ledger().balance(grant.fund);
  if (!balance) return failed(balance.error().message);
  return good({{"was_known", *status == accounting::GrantStatus::kAlreadyGranted},
               {"fund", *balance ? fund_to_json(**balance) : json(nullptr)}});
}

json answer_audit(Dispatcher& dispatcher, const Caller& caller) {
  if (!caller.is_admin) return refused({"only an admin audits"});
  const auto report = dispatcher.audit();
  if (!report) return failed(report.error().message);
  return good({{"faults", report->faults}, {"notes", report->notes},
               {"charges_compared", report->charges_compared},
               {"unallocated_gpu_s", report->unallocated_gpu_s}});
}

json outcome_of(const Expected<std::optional<Refusal>>& outcome);

json answer_gate(Dispatcher& dispatcher, const Site& site, const Caller& caller, const json& request,
                 UtcSeconds now) {
  if (caller.uid != 0 && caller.user != site.managed.slurm_user && !caller.is_admin) {
    return refused({"only Slurm itself asks whether a job may start"});
  }
  return outcome_of(dispatcher.may_start(request.at("job"), now));
}

json outcome_of(const Expected<std::optional<Refusal>>& outcome) {
  if (!outcome) return failed(outcome.error().message);
  if (*outcome) return refused((*outcome)->reasons);
  return good(json::object());
}

json outcome_of(const Expected<void>& outcome) {
  return outcome ? good(json::object()) : failed(outcome.error().message);
}

}  // namespace

json answer_request(Dispatcher& dispatcher, const Site& site, const Caller& caller,
                    const json& request, UtcSeconds now) {
  try {
    const std::string verb = request.at("verb");
    if (verb == "hello") {
      json out = {{"user", caller.user}, {"is_admin", caller.is_admin},
                  {"version", TRAINYARD_VERSION}, {"poll_interval_s", site.poll_interval_s},
                  {"last_poll", dispatcher.last_poll()}, {"trouble", dispatcher.trouble()}};
      if (dispatcher.facts()) {
        out["cluster"] = dispatcher.facts()->name;
        out["kill_wait_s"] = dispatcher.facts()->kill_wait_s;
        out["over_time_limit_s"] = dispatcher.facts()->over_time_limit_s;
      }
      return good(std::move(out));
    }
    if (verb == "admit") return answer_admit(dispatcher, caller, request, now);
    if (verb == "submitted") {
      return outcome_of(dispatcher.submitted(caller, request.at("run"), request.at("segment"),
                                             request.at("job"), now));
    }
    if (verb == "submission_failed") {
      return outcome_of(dispatcher.submission_failed(caller, request.at("run"), request.at("segment"),
                                                     request.at("message"), now));
    }
    if (verb == "stop") return outcome_of(dispatcher.request_stop(caller, request.at("run"), now));
    if (verb == "cancel") return outcome_of(dispatcher.request_cancel(caller, request.at("run"), now));
    if (verb == "pause") return outcome_of(dispatcher.request_pause(caller, request.at("run"), now));
    if (verb == "resume") return outcome_of(dispatcher.request_resume(caller, request.at("run"), now));
    if (verb == "list") return answer_list(dispatcher, caller, request);
    if (verb == "show") return answer_show(dispatcher, caller, request);
    if (verb == "funds") return answer_funds(dispatcher, caller);
    if (verb == "statement") return answer_statement(dispatcher, caller, request);
    if (verb == "grant") return answer_grant(dispatcher, caller, request, now);
    if (verb == "gate") return answer_gate(dispatcher, site, caller, request, now);
    if (verb == "audit") return answer_audit(dispatcher, caller);
    if (auto answer = answer_books(dispatcher, site, caller, request, now)) return *answer;
    return bad_request("verb \"" + verb + "\" is not known");
  } catch (const std::exception& error) {
    return bad_request(error.what());
  }
}

// --- The socket ------------------------------------------------------------------------------

namespace {

struct Client {
  int fd = -1;
  Caller caller;
  std::string in, out;
  std::chrono::steady_clock::time_point last_active;
  bool is_finished = false;  // Close once `out` is written.
};

Expected<Caller> caller_of(int fd, const Site& site) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return tl::unexpected(Error{fmt::format("SO_PEERCRED: {}", std::strerror(errno))});
  }
  return look_up_caller(peer.uid, site);
}

Expected<sockaddr_un> socket_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return tl::unexpected(Error{fmt::format("socket path {} has {} bytes; at most {} are possible",
                                            path, path.size(), sizeof address.sun_path - 1)});
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

}  // namespace

struct Service::Impl {
  int listener = -1;
  std::string path;
  std::vector<Client> clients;

  ~Impl() {
    for (const Client& client : clients) close(client.fd);
    if (listener >= 0) {
      close(listener);
      unlink(path.c_str());
    }
  }

  void accept_clients(const Site& site) {
    while (clients.size() < kClientsMax) {
      const int fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) return;
      Client client;
      client.fd = fd;
      client.last_active = std::chrono::steady_clock::now();
      if (auto caller = caller_of(fd, site)) {
        client.caller = std::move(*caller);
      } else {
        client.out = failed(caller.error().message).dump() + "\n";
        client.is_finished = true;
      }
      clients.push_back(std::move(client));
    }
  }

  static void read_from(Client& client, Dispatcher& dispatcher, const Site& site) {
    char buffer[16384];
    while (!client.is_finished) {
      const ssize_t got = read(client.fd, buffer, sizeof buffer);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
      if (got <= 0) {
        client.is_finished = true;
        break;
      }
      client.in.append(buffer, static_cast<std::size_t>(got));
      client.last_active = std::chrono::steady_clock::now();
      if (client.in.size() > kRequestBytesMax) {
        client.out += bad_request(fmt::format("a request is longer than {} bytes", kRequestBytesMax))
                          .dump() + "\n";
        client.is_finished = true;
      }
    }
    std::size_t end = 0;
    while ((end = client.in.find('\n')) != std::string::npos) {
      const std::string line = client.in.substr(0, end);
      client.in.erase(0, end + 1);
      const json request = json::parse(line, nullptr, false);
      const json reply = request.is_object()
                             ? answer_request(dispatcher, site, client.caller, request, std::time(nullptr))
                             : bad_request("the request is no JSON object");
      client.out += reply.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
    }
  }

  static void write_to(Client& client) {
    while (!client.out.empty()) {
      const ssize_t put = send(client.fd, client.out.data(), client.out.size(), MSG_NOSIGNAL);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
      if (put <= 0) {
        client.out.clear();
        client.is_finished = true;
        return;
      }
      client.last_active = std::chrono::steady_clock::now();
      client.out.erase(0, static_cast<std::size_t>(put));
    }
  }
};

Service::Service(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Service::Service(Service&& other) noexcept = default;
Service::~Service() = default;

Expected<Service> Service::listen(const Site& site) {
  const auto address = socket_address(site.socket);
  if (!address) return tl::unexpected(address.error());
  const auto* name = reinterpret_cast<const sockaddr*>(&*address);
  auto impl = std::make_unique<Impl>();
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return tl::unexpected(Error{fmt::format("socket: {}", std::strerror(errno))});
  // A file without a listener is what a killed service left behind.
  const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool is_live = probe >= 0 && connect(probe, name, sizeof *address) == 0;
  if (probe >= 0) close(probe);
  if (is_live) {
    close(fd);
    return tl::unexpected(Error{fmt::format("{}: another trainyardd listens there", site.socket)});
  }
  unlink(site.socket.c_str());
  if (bind(fd, name, sizeof *address) != 0 || chmod(site.socket.c_str(), 0666) != 0 ||
      ::listen(fd, 128) != 0) {
    const int error = errno;
    close(fd);
    return tl::unexpected(Error{fmt::format("{}: {}", site.socket, std::strerror(error))});
  }
  impl->listener = fd;
  impl->path = site.socket;
  return Service(std::move(impl));
}

void Service::serve(Dispatcher& dispatcher, const Site& site, int timeout_ms) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  while (true) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= end) return;
    std::vector<pollfd> watched{{impl_->listener, POLLIN, 0}};
    for (const Client& client : impl_->clients) {
      watched.push_back({client.fd, static_cast<short>(client.out.empty() ? POLLIN : POLLOUT), 0});
    }
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - now).count();
    const int ready = poll(watched.data(), watched.size(), static_cast<int>(left) + 1);
    if (ready < 0) return;  // A signal: the main looks why.
    for (std::size_t i = 0; i < impl_->clients.size(); ++i) {
      Client& client = impl_->clients[i];
      if (watched[i + 1].revents == 0) continue;
      if (client.out.empty()) Impl::read_from(client, dispatcher, site);
      Impl::write_to(client);
    }
    if (watched[0].revents != 0) impl_->accept_clients(site);
    const auto stale = std::chrono::steady_clock::now() - std::chrono::seconds(kIdleSecondsMax);
    std::erase_if(impl_->clients, [&](const Client& client) {
      const bool is_over = (client.is_finished && client.out.empty()) || client.last_active < stale;
      if (is_over) close(client.fd);
      return is_over;
    });
  }
}

Expected<json> ask_service(const Site& site, const json& request) {
  const auto address = socket_address(site.socket);
  if (!address) return tl::unexpected(address.error());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return tl::unexpected(Error{fmt::format("socket: {}", std::strerror(errno))});
  const auto fail = [&](const std::string& what) {
    const int error = errno;
    close(fd);
    return tl::unexpected(Error{fmt::format("{}: {}: {}. Is trainyardd running?", site.socket, what,
                                            std::strerror(error))});
  };
  if (connect(fd, reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0) {
    return fail("connect");
  }
  ucred peer{};
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return fail("SO_PEERCRED");
  const passwd* entry = getpwnam(site.service_user.c_str());
  if (peer.uid != 0 && peer.uid != getuid() && (entry == nullptr || entry->pw_uid != peer.uid)) {
    close(fd);
    return tl::unexpected(Error{fmt::format("{}: the service runs as uid {}, not as {} ({})",
                                            site.socket, peer.uid, site.service_user, site.path)});
  }
  timeval patience{30, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  const std::string line = request.dump() + "\n";
  std::size_t sent = 0;
  while (sent < line.size()) {
    const ssize_t put = send(fd, line.data() + sent, line.size() - sent, MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return fail("sending");
    sent += static_cast<std::size_t>(put);
  }
  std::string reply;
  char buffer[16384];
  while (reply.find('\n') == std::string::npos) {
    const ssize_t got = read(fd, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      if (got == 0) errno = ECONNRESET;
      return fail("reading the answer");
    }
    reply.append(buffer, static_cast<std::size_t>(got));
  }
  close(fd);
  json parsed = json::parse(reply, nullptr, false);
  if (!parsed.is_object() || !parsed.contains("ok")) {
    return tl::unexpected(Error{site.socket + ": the answer is no JSON object"});
  }
  return parsed;
}

}  // namespace scheduler
