// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/service.h
//
// The sockets of trainyardd: one JSON object a line in, one out (docs/formats/protocol.md). Who asks
// is what the kernel says of the peer, or MUNGE where it is another node. One thread, one poll(2)
// loop; a slow client costs the others nothing but its buffer, one who asks without end one answer
// for each of theirs (fair_turns.h).
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "scheduler/credential.h"
#include "scheduler/dispatcher.h"
#include "scheduler/error.h"
#include "scheduler/site.h"

namespace scheduler {

// Answers one request of `caller`. Never throws for what the client sent.
[[nodiscard]] nlohmann::json answer_request(Dispatcher& dispatcher, const Site& site,
                                            const Caller& caller, const nlohmann::json& request,
                                            UtcSeconds now);

class Service {
 public:
  // Listens on site.socket (mode 0666: everybody may ask). A stale socket file is replaced, a
  // live one is an Error.
  [[nodiscard]] static Expected<Service> listen(const Site& site,
                                                CallerLookup look_up = look_up_caller);
  Service(Service&& other) noexcept;
  Service& operator=(Service&&) = delete;
  ~Service();

  // Also on TCP at "HOST:PORT", for other nodes; port 0: any. The port. `credentials` outlives the
  // service.
  [[nodiscard]] Expected<int> listen_remote(const std::string& address, Credentials& credentials);

  // Serves requests until `timeout_ms` is over or a signal came. Who waits then is answered by the
  // next call: an answer that was begun ends, and no other is begun.
  void serve(Dispatcher& dispatcher, const Site& site, int timeout_ms);

 private:
  struct Impl;
  explicit Service(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// --- The client's side -----------------------------------------------------------------------


// One question over a new connection: to the local socket or, where there is none and the site has
// one, to the remote address. An Error where the service is not there or is not run by root or
// site.service_user.
[[nodiscard]] Expected<nlohmann::json> ask_service(const Site& site, const nlohmann::json& request);
[[nodiscard]] Expected<nlohmann::json> ask_remote_service(const Site& site, Credentials& credentials,
                                                          const nlohmann::json& request);

}  // namespace scheduler
