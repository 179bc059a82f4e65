// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/http_posts.h
//
// Messages that the service sends over HTTP, several at once and without waiting for any. One thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "scheduler/error.h"
#include "scheduler/side_command.h"

namespace scheduler {

class HttpPosts {
 public:
  HttpPosts();
  HttpPosts(const HttpPosts&) = delete;
  HttpPosts& operator=(const HttpPosts&) = delete;
  // Breaks off what is under way.
  ~HttpPosts();

  // Redirections are not followed. An Error: nothing was sent.
  [[nodiscard]] Expected<void> start(std::int64_t ticket, const std::string& url,
                                     const std::vector<std::string>& headers,
                                     const std::string& body, std::chrono::seconds limit);
  // Goes on with all of them; those that have ended since the last call. Good is an answer of 200 to
  // 299.
  [[nodiscard]] std::vector<SideEnd> take();
  [[nodiscard]] std::size_t running() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace scheduler
