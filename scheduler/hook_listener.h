// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/hook_listener.h
//
// A small HTTP server for the messages of a payment service (docs/formats/payment.md, "Handing it
// over"). It knows no key and keeps nothing: body and signature go to trainyardd as they came, which
// alone judges them. It stands behind a web server that speaks TLS, or on a private network.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "scheduler/error.h"

namespace scheduler {

struct HookSettings {
  std::string listen = "127.0.0.1:8787";   // HOST:PORT; port 0: any.
  std::string path = "/payments";
  std::string header = "Trainyard-Signature";
  std::size_t body_bytes_max = 65'536;
  unsigned timeout_s = 15;                 // A sender that is silent for so long is dropped.
  unsigned connections_max = 64;
};

// 200: taken, also a second time. 400: refused for good. 503: not now, send it again.
enum class HookAnswer { kTaken = 200, kRefused = 400, kNotNow = 503 };
// Called from several threads at once.
using HookForward = std::function<HookAnswer(const std::string& signature, const std::string& body)>;

class HookListener {
 public:
  // Listens until it is destroyed.
  [[nodiscard]] static Expected<HookListener> start(const HookSettings& settings,
                                                    HookForward forward);
  HookListener(HookListener&&) noexcept;
  HookListener& operator=(HookListener&&) = delete;
  ~HookListener();
  [[nodiscard]] int port() const;

 private:
  struct Impl;
  explicit HookListener(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace scheduler
