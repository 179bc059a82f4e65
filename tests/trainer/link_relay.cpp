// SPDX-License-Identifier: GPL-3.0-or-later
//
// link_relay [--delay-ms D] [--loss-percent L] [--rate-mbit R] [--seed S] TAP...
//
// A network in user space, for kernels without netem: makes the TAP devices, prints "ready", and
// carries each Ethernet frame from the device where it came out to that of its destination. Each
// device has an uplink of its own: a frame waits for those before it at R Mbit/s (0: no limit),
// then D ms; L per cent are lost at random. The devices may be moved into network namespaces.
// Ends at SIGTERM or SIGINT with a line of what it carried. Needs root.
#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <system_error>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Address = std::array<char, ETH_ALEN>;

volatile std::sig_atomic_t is_over = 0;

struct Options {
  double delay_ms = 0, loss_percent = 0, rate_mbit = 0;
  unsigned seed = 1;
  std::vector<std::string> devices;
};

struct Frame {
  Clock::time_point due;
  std::string bytes;
};

struct Link {
  int file = -1;
  Clock::time_point free_at{};  // When the frames before are on the wire.
  std::deque<Frame> under_way{};
  std::size_t queued_bytes = 0;
};

int open_device(const std::string& name) {
  const int file = ::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  ifreq request{};
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  if (file < 0 || ::ioctl(file, TUNSETIFF, &request) < 0) {
    throw std::system_error(errno, std::generic_category(), name);
  }
  return file;
}

class Relay {
 public:
  explicit Relay(const Options& options) : options_(options), dice_(options.seed) {
    for (const std::string& name : options.devices) links_.push_back({.file = open_device(name)});
  }

  void run() {
    std::vector<pollfd> waits(links_.size());
    while (is_over == 0) {
      const Clock::time_point next = deliver();
      for (std::size_t i = 0; i < links_.size(); ++i) waits[i] = {links_[i].file, POLLIN, 0};
      const auto left =
          std::chrono::duration_cast<std::chrono::nanoseconds>(next - Clock::now()).count();
      const std::int64_t wait = std::clamp<std::int64_t>(left, 0, 100'000'000);
      const timespec limit{0, wait};
      if (::ppoll(waits.data(), waits.size(), &limit, nullptr) <= 0) continue;
      for (std::size_t i = 0; i < links_.size(); ++i) {
        if ((waits[i].revents & POLLIN) != 0) take(i);
      }
    }
    fmt::print("carried {} frames, {} bytes; lost {}, {} for want of room\n", frames_, bytes_,
               lost_, overflowed_);
  }

 private:
  // All frames that a device gives now.
  void take(std::size_t from) {
    constexpr int kFramesAtOnce = 64;
    constexpr std::size_t kFrameBytesMax = 1 << 16;
    std::array<char, kFrameBytesMax> buffer;
    for (int i = 0; i < kFramesAtOnce; ++i) {
      const ssize_t size = ::read(links_[from].file, buffer.data(), buffer.size());
      if (size < static_cast<ssize_t>(sizeof(ether_header))) return;
      Address source;
      std::memcpy(source.data(), buffer.data() + ETH_ALEN, ETH_ALEN);
      place_[source] = from;
      send(from, std::string(buffer.data(), static_cast<std::size_t>(size)));
    }
  }

  void send(std::size_t from, std::string bytes) {
    constexpr std::size_t kQueueBytesMax = 256 << 20;
    Link& link = links_[from];
    if (link.queued_bytes + bytes.size() > kQueueBytesMax) {
      ++overflowed_;
      return;
    }
    const Clock::time_point now = Clock::now();
    link.free_at = std::max(link.free_at, now);
    if (options_.rate_mbit > 0) {
      const double seconds = static_cast<double>(bytes.size()) * 8 / (options_.rate_mbit * 1e6);
      link.free_at += std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9));
    }
    if (std::uniform_real_distribution<>(0, 100)(dice_) < options_.loss_percent) {
      ++lost_;
      return;
    }
    const std::chrono::nanoseconds delay(static_cast<std::int64_t>(options_.delay_ms * 1e6));
    link.queued_bytes += bytes.size();
    link.under_way.push_back({link.free_at + delay, std::move(bytes)});
  }

  // Hands over what is due; returns when the next frame is.
  Clock::time_point deliver() {
    const Clock::time_point now = Clock::now();
    Clock::time_point next = now + std::chrono::milliseconds(100);
    for (std::size_t from = 0; from < links_.size(); ++from) {
      Link& link = links_[from];
      while (!link.under_way.empty() && link.under_way.front().due <= now) {
        const std::string bytes = std::move(link.under_way.front().bytes);
        link.under_way.pop_front();
        link.queued_bytes -= bytes.size();
        hand_over(from, bytes);
      }
      if (!link.under_way.empty()) next = std::min(next, link.under_way.front().due);
    }
    return next;
  }

  void hand_over(std::size_t from, const std::string& bytes) {
    Address destination;
    std::memcpy(destination.data(), bytes.data(), ETH_ALEN);
    const auto known = place_.find(destination);
    for (std::size_t to = 0; to < links_.size(); ++to) {
      if (to == from || (known != place_.end() && known->second != to)) continue;
      if (::write(links_[to].file, bytes.data(), bytes.size()) < 0) continue;  // Down: lost.
      ++frames_;
      bytes_ += bytes.size();
    }
  }

  Options options_;
  std::mt19937 dice_;
  std::vector<Link> links_;
  std::map<Address, std::size_t> place_;
  std::uint64_t frames_ = 0, bytes_ = 0, lost_ = 0, overflowed_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Carries Ethernet frames between TAP devices, late and with losses");
  app.add_option("--delay-ms", options.delay_ms, "one way, milliseconds")
      ->check(CLI::Range(0.0, 10000.0));
  app.add_option("--loss-percent", options.loss_percent)->check(CLI::Range(0.0, 100.0));
  app.add_option("--rate-mbit", options.rate_mbit, "of each uplink, Mbit/s; 0: no limit");
  app.add_option("--seed", options.seed, "of the losses");
  app.add_option("devices", options.devices, "names of the TAP devices")->required();
  CLI11_PARSE(app, argc, argv);
  std::signal(SIGTERM, [](int) { is_over = 1; });
  std::signal(SIGINT, [](int) { is_over = 1; });
  try {
    Relay relay(options);
    fmt::print("ready\n");
    std::fflush(stdout);
    relay.run();
    return 0;
  } catch (const std::system_error& error) {
    fmt::print(stderr, "link_relay: {}\n", error.what());
    return 1;
  }
}
