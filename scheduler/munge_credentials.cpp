// SPDX-License-Identifier: GPL-3.0-or-later
//
// The one file that knows libmunge.
#include <munge.h>

#include <cstdlib>

#include <fmt/format.h>

#include "scheduler/credential.h"

namespace scheduler {
namespace {

struct FreeMemory {
  void operator()(void* memory) const { std::free(memory); }
};

class MungeCredentials final : public Credentials {
 public:
  explicit MungeCredentials(std::string socket) : socket_(std::move(socket)) {}

  Expected<std::string> make(const std::string& payload,
                             std::optional<std::uint32_t> reader) override {
    const Context context(socket_);
    if (reader)
      munge_ctx_set(context.get(), MUNGE_OPT_UID_RESTRICTION, static_cast<uid_t>(*reader));
    char* text = nullptr;
    const munge_err_t code =
        munge_encode(&text, context.get(), payload.data(), static_cast<int>(payload.size()));
    const std::unique_ptr<char, FreeMemory> owner(text);
    if (code != EMUNGE_SUCCESS) return trouble("making a credential", context, code);
    return std::string(text);
  }

  Expected<Credential> read(const std::string& text) override {
    const Context context(socket_);
    void* payload = nullptr;
    int length = 0;
    uid_t uid = 0;
    gid_t gid = 0;
    const munge_err_t code =
        munge_decode(text.c_str(), context.get(), &payload, &length, &uid, &gid);
    const std::unique_ptr<void, FreeMemory> owner(payload);
    // What a replayed or expired one says is filled in as well, and counts for nothing.
    if (code != EMUNGE_SUCCESS) return trouble("a credential", context, code);
    Credential credential{
        uid, std::string(static_cast<const char*>(payload), static_cast<std::size_t>(length))};
    int life_s = 0;
    if (munge_ctx_get(context.get(), MUNGE_OPT_TTL, &life_s) == EMUNGE_SUCCESS && life_s > 0) {
      credential.life = std::chrono::seconds(life_s);
    }
    return credential;
  }

 private:
  class Context {
   public:
    explicit Context(const std::string& socket) : context_(munge_ctx_create()) {
      if (!socket.empty()) munge_ctx_set(context_, MUNGE_OPT_SOCKET, socket.c_str());
    }
    ~Context() { munge_ctx_destroy(context_); }
    Context(const Context&) = delete;
    Context& operator=(const Context&) = delete;
    [[nodiscard]] munge_ctx_t get() const { return context_; }

   private:
    munge_ctx_t context_;
  };

  static tl::unexpected<Error> trouble(const char* what, const Context& context, munge_err_t code) {
    const char* words = munge_ctx_strerror(context.get());
    return tl::unexpected(
        Error{fmt::format("MUNGE: {}: {}", what, words != nullptr ? words : munge_strerror(code))});
  }

  std::string socket_;
};

}  // namespace

std::unique_ptr<Credentials> open_munge(const std::string& socket) {
  return std::make_unique<MungeCredentials>(socket);
}

}  // namespace scheduler
