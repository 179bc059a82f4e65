// SPDX-License-Identifier: GPL-3.0-or-later
//
// The one file that knows libcurl.
#include "scheduler/http_posts.h"

#include <curl/curl.h>

#include <algorithm>

#include <fmt/format.h>

namespace scheduler {
namespace {

struct Post {
  std::int64_t ticket = 0;
  CURL* handle = nullptr;
  curl_slist* headers = nullptr;
  std::string body;
};

std::size_t pass_over(char*, std::size_t size, std::size_t count, void*) { return size * count; }

}  // namespace

struct HttpPosts::Impl {
  CURLM* multi = nullptr;
  std::vector<std::unique_ptr<Post>> posts;

  void close(Post& post) const {
    curl_multi_remove_handle(multi, post.handle);
    curl_easy_cleanup(post.handle);
    curl_slist_free_all(post.headers);
  }
};

HttpPosts::HttpPosts() : impl_(std::make_unique<Impl>()) {
  curl_global_init(CURL_GLOBAL_DEFAULT);
  impl_->multi = curl_multi_init();
}

HttpPosts::~HttpPosts() {
  for (const auto& post : impl_->posts) impl_->close(*post);
  curl_multi_cleanup(impl_->multi);
  curl_global_cleanup();
}

Expected<void> HttpPosts::start(std::int64_t ticket, const std::string& url,
                                const std::vector<std::string>& headers, const std::string& body,
                                std::chrono::seconds limit) {
  auto post = std::make_unique<Post>();
  post->ticket = ticket;
  post->body = body;
  post->handle = curl_easy_init();
  if (post->handle == nullptr) return tl::unexpected(Error{url + ": libcurl gave no handle"});
  for (const std::string& header : headers) {
    post->headers = curl_slist_append(post->headers, header.c_str());
  }
  CURL* handle = post->handle;
  curl_easy_setopt(handle, CURLOPT_URL, url.c_str());
  curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(handle, CURLOPT_POST, 1L);
  curl_easy_setopt(handle, CURLOPT_POSTFIELDS, post->body.data());
  curl_easy_setopt(handle, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(post->body.size()));
  curl_easy_setopt(handle, CURLOPT_HTTPHEADER, post->headers);
  curl_easy_setopt(handle, CURLOPT_TIMEOUT, static_cast<long>(limit.count()));
  curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, pass_over);
  const CURLMcode added = curl_multi_add_handle(impl_->multi, handle);
  if (added != CURLM_OK) {
    impl_->close(*post);
    return tl::unexpected(Error{fmt::format("{}: {}", url, curl_multi_strerror(added))});
  }
  impl_->posts.push_back(std::move(post));
  return {};
}

std::size_t HttpPosts::running() const { return impl_->posts.size(); }

std::vector<SideEnd> HttpPosts::take() {
  std::vector<SideEnd> ended;
  int running = 0;
  curl_multi_perform(impl_->multi, &running);
  int left = 0;
  while (const CURLMsg* message = curl_multi_info_read(impl_->multi, &left)) {
    if (message->msg != CURLMSG_DONE) continue;
    const auto found =
        std::find_if(impl_->posts.begin(), impl_->posts.end(),
                     [&](const auto& post) { return post->handle == message->easy_handle; });
    if (found == impl_->posts.end()) continue;
    const CURLcode result = message->data.result;
    long status = 0;
    curl_easy_getinfo(message->easy_handle, CURLINFO_RESPONSE_CODE, &status);
    const bool is_good = result == CURLE_OK && status >= 200 && status < 300;
    const std::string trouble = is_good              ? ""
                                : result != CURLE_OK ? curl_easy_strerror(result)
                                                     : fmt::format("it answered {}", status);
    ended.push_back({(*found)->ticket, is_good, trouble, ""});
    impl_->close(**found);
    impl_->posts.erase(found);
  }
  return ended;
}

}  // namespace scheduler
