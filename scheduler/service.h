// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/service.h
//
// The socket of trainyardd: one JSON object a line in, one out (docs/formats/protocol.md). Who asks
// is what the kernel says of the peer. One thread, one poll(2) loop; a slow or hostile client costs
// the others nothing but its buffer.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

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
  [[nodiscard]] static Expected<Service> listen(const Site& site);
  Service(Service&& other) noexcept;
  Service& operator=(Service&&) = delete;
  ~Service();

  // Serves requests until `timeout_ms` is over or a signal came.
  void serve(Dispatcher& dispatcher, const Site& site, int timeout_ms);

 private:
  struct Impl;
  explicit Service(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// --- The client's side -----------------------------------------------------------------------


// One question over a new connection. An Error where the service is not there or is not run by
// root or site.service_user.
[[nodiscard]] Expected<nlohmann::json> ask_service(const Site& site, const nlohmann::json& request);

}  // namespace scheduler
