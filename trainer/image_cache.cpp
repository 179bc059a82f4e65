// SPDX-License-Identifier: Apache-2.0
#include "trainer/image_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <span>
#include <system_error>
#include <vector>

namespace trainer {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kAlignment = 64;  // A cache line.

std::size_t aligned(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

std::string temporary_folder() {
  for (const char* name : {"SLURM_TMPDIR", "TMPDIR"}) {
    const char* folder = std::getenv(name);
    if (folder != nullptr && folder[0] == '/') return folder;
  }
  return "/tmp";
}

int open_nameless(ImageCache::Medium medium) {
  if (medium == ImageCache::Medium::kMemory) {
    return ::memfd_create("trainyard-images", MFD_CLOEXEC);
  }
  std::string path = temporary_folder() + "/trainyard-images-XXXXXX";
  const int descriptor = ::mkostemp(path.data(), O_CLOEXEC);
  if (descriptor >= 0) ::unlink(path.c_str());
  return descriptor;
}

std::size_t read_number(const fs::path& path) {
  std::ifstream file(path);
  std::size_t number = 0;
  // "max" of a group without a limit is no number.
  return file >> number ? number : std::numeric_limits<std::size_t>::max();
}

std::size_t number_after(const fs::path& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string word; file >> word;) {
    std::size_t number = 0;
    if (word == key && file >> number) return number;
  }
  return 0;
}

// What a control group and those above it leave; page cache that can go does not count as used.
std::size_t left_in_groups() {
  std::size_t left = std::numeric_limits<std::size_t>::max();
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool is_v2 = controllers.empty();
    if (!is_v2 && controllers.find("memory") == std::string::npos) continue;
    const fs::path root = is_v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    fs::path below = fs::path(line.substr(second + 1)).relative_path();
    for (;; below = below.parent_path()) {
      const fs::path group = root / below;
      const std::size_t limit =
          read_number(group / (is_v2 ? "memory.max" : "memory.limit_in_bytes"));
      const std::size_t used =
          read_number(group / (is_v2 ? "memory.current" : "memory.usage_in_bytes"));
      if (limit != std::numeric_limits<std::size_t>::max() && used <= limit) {
        const std::size_t idle =
            number_after(group / "memory.stat", is_v2 ? "inactive_file" : "total_inactive_file");
        left = std::min(left, limit - used + std::min(used, idle));
      } else if (limit != std::numeric_limits<std::size_t>::max() &&
                 used != std::numeric_limits<std::size_t>::max()) {
        left = 0;
      }
      if (below.empty()) break;
    }
  }
  return left;
}

}  // namespace

// The layout of the file: header, slots, pixels. Only this program of this run reads it.
struct ImageCache::Header {
  std::uint64_t token;  // Of the handle: another process's file is not taken for ours.
  std::int64_t images;
  std::size_t pixels_at, bytes_all;
  std::atomic<std::size_t> next;  // Where the next image goes.
  std::atomic<std::int64_t> kept;
  std::atomic<bool> is_full;
};

struct ImageCache::Slot {
  enum State : std::uint32_t { kEmpty, kClaimed, kReady };
  std::atomic<std::uint32_t> state;
  std::int32_t rows, cols, original_width, original_height;
  std::size_t at;
};
static_assert(std::atomic<std::size_t>::is_always_lock_free &&
                  std::atomic<std::int64_t>::is_always_lock_free &&
                  std::atomic<std::uint32_t>::is_always_lock_free,
              "They are shared between processes.");

ImageCache::ImageCache(std::int64_t images, std::size_t bytes_max, Medium medium) {
  const std::size_t pixels_at =
      aligned(sizeof(Header)) + aligned(static_cast<std::size_t>(images) * sizeof(Slot));
  const std::size_t bytes = pixels_at + aligned(bytes_max);
  descriptor_ = open_nameless(medium);
  // The table of slots is taken at once, pixels as they come: writing where there is no room would
  // be a signal, not an error.
  if (descriptor_ < 0 || ::ftruncate(descriptor_, static_cast<off_t>(bytes)) != 0 ||
      ::fallocate(descriptor_, 0, 0, static_cast<off_t>(pixels_at)) != 0) {
    const int error = errno;
    if (descriptor_ >= 0) ::close(descriptor_);
    errno = error;
    fail("image cache");
  }
  map(bytes);
  std::random_device random;
  header_->token = std::uint64_t{random()} << 32 | random();
  header_->images = images;
  header_->pixels_at = pixels_at;
  header_->bytes_all = bytes;
  header_->next.store(pixels_at, std::memory_order_release);
}

ImageCache::ImageCache(const std::string& handle) {
  const std::size_t blank = handle.find(' ');
  const std::string path = handle.substr(0, blank);
  descriptor_ = ::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC);
  struct stat status {};
  if (descriptor_ < 0 || ::fstat(descriptor_, &status) != 0) fail(path);
  map(static_cast<std::size_t>(status.st_size));
  const bool is_ours = bytes_mapped_ > sizeof(Header) && blank != std::string::npos &&
                       fmt::format("{}", header_->token) == handle.substr(blank + 1);
  if (is_ours) return;
  ::munmap(memory_, bytes_mapped_);
  ::close(descriptor_);
  errno = EBADF;
  fail(path);
}

void ImageCache::map(std::size_t bytes) {
  memory_ =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, descriptor_, 0);
  if (memory_ == MAP_FAILED) {
    const int error = errno;
    ::close(descriptor_);
    errno = error;
    fail("image cache");
  }
  bytes_mapped_ = bytes;
  auto* start = static_cast<std::byte*>(memory_);
  header_ = reinterpret_cast<Header*>(start);
  slots_ = reinterpret_cast<Slot*>(start + aligned(sizeof(Header)));
}

ImageCache::~ImageCache() {
  ::munmap(memory_, bytes_mapped_);
  ::close(descriptor_);
}

std::string ImageCache::handle() const {
  return fmt::format("/proc/{}/fd/{} {}", ::getpid(), descriptor_, header_->token);
}

ImageCache::Image ImageCache::find(std::int64_t index) const {
  if (index < 0 || index >= header_->images) return {};
  const Slot& slot = slots_[index];
  if (slot.state.load(std::memory_order_acquire) != Slot::kReady) return {};
  auto* pixels = static_cast<unsigned char*>(memory_) + slot.at;
  return {cv::Mat(slot.rows, slot.cols, CV_8UC3, pixels),
          {slot.original_width, slot.original_height}};
}

void ImageCache::put(std::int64_t index, const cv::Mat& pixels, cv::Size original) {
  if (index < 0 || index >= header_->images || is_full()) return;
  Slot& slot = slots_[index];
  std::uint32_t empty = Slot::kEmpty;
  if (!slot.state.compare_exchange_strong(empty, Slot::kClaimed)) return;
  const auto row_bytes = static_cast<std::size_t>(pixels.cols) * 3;
  const std::size_t bytes = row_bytes * static_cast<std::size_t>(pixels.rows);
  const std::size_t at = header_->next.fetch_add(aligned(bytes));
  // A claimed slot without room stays so: its image is decoded each time.
  if (at + bytes > header_->bytes_all ||
      ::fallocate(descriptor_, 0, static_cast<off_t>(at), static_cast<off_t>(bytes)) != 0) {
    header_->is_full = true;
    return;
  }
  auto* target = static_cast<std::byte*>(memory_) + at;
  for (int row = 0; row < pixels.rows; ++row) {
    std::memcpy(target + static_cast<std::size_t>(row) * row_bytes, pixels.ptr(row), row_bytes);
  }
  slot.rows = pixels.rows, slot.cols = pixels.cols;
  slot.original_width = original.width, slot.original_height = original.height;
  slot.at = at;
  slot.state.store(Slot::kReady, std::memory_order_release);
  ++header_->kept;
}

std::int64_t ImageCache::images_kept() const {
  return header_->kept;
}

std::size_t ImageCache::bytes_kept() const {
  return std::min(header_->next.load(), header_->bytes_all) - header_->pixels_at;
}

bool ImageCache::is_full() const {
  return header_->is_full;
}

std::size_t cache_bytes_allowed(ImageCache::Medium medium) {
  if (medium == ImageCache::Medium::kDisk) {
    std::error_code error;
    const fs::space_info space = fs::space(temporary_folder(), error);
    return error ? 0 : static_cast<std::size_t>(space.available) / 2;
  }
  constexpr std::size_t kKibi = 1024;
  return std::min(number_after("/proc/meminfo", "MemAvailable:") * kKibi, left_in_groups()) / 2;
}

HostCache make_host_cache(Communicator& communicator, std::int64_t images,
                          std::size_t image_bytes_max, ImageCache::Medium medium) {
  const std::size_t wanted = static_cast<std::size_t>(images) * aligned(image_bytes_max);
  HostCache host;
  const auto make_own = [&](std::size_t sharers) {
    const std::size_t bytes = std::min(wanted, cache_bytes_allowed(medium) / sharers);
    try {
      host.cache = std::make_shared<ImageCache>(images, bytes, medium);
    } catch (const std::system_error& error) {
      host.note = fmt::format("images are not cached: {}", error.what());
    }
  };
  if (communicator.local_rank() == 0) make_own(1);

  // Each rank's host and, of the first on a host, its handle.
  const std::string own =
      communicator.host() + "\n" + (host.cache ? host.cache->handle() : std::string());
  std::string handle;
  std::size_t sharers = 0;
  for (const std::vector<std::byte>& bytes :
       communicator.all_gather(std::as_bytes(std::span(own)))) {
    const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    const std::size_t end = text.find('\n');
    if (text.substr(0, end) != communicator.host()) continue;
    ++sharers;
    if (text.size() > end + 1) handle = text.substr(end + 1);
  }
  if (communicator.local_rank() != 0 && !handle.empty()) {
    try {
      host.cache = std::make_shared<ImageCache>(handle);
    } catch (const std::system_error& error) {
      // Other namespaces, as with one container a rank.
      host.note =
          fmt::format("ranks of {} have a cache each: {}", communicator.host(), error.what());
      make_own(sharers);
    }
  }
  communicator.barrier();  // The first rank lives until all have opened its cache.
  return host;
}

}  // namespace trainer
