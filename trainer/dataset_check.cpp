// SPDX-License-Identifier: Apache-2.0
#include "trainer/dataset_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <filesystem>
#include <functional>
#include <iterator>
#include <map>
#include <numeric>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>

#include "trainer/contract/disk.h"
#include "trainer/image.h"

namespace trainer {
namespace {

using contract::ImageEntry;

constexpr std::size_t kFileBytesMax = std::size_t{1} << 30;

struct Image {
  const ImageEntry* entry = nullptr;
  const char* split = "";
  std::int64_t width = 0, height = 0;  // 0: not known.
  // Difference hash; nothing: not decoded, or flat.
  std::optional<std::uint64_t> look = std::nullopt;
  bool is_usable = true;  // False: it was to be decoded and cannot be.
};

// Runs `work` for 0..count-1 on some threads.
template <typename Work>
void for_each_index(std::size_t count, int threads, const Work& work) {
  std::atomic<std::size_t> next{0};
  const auto drain = [&] {
    for (std::size_t i = next++; i < count; i = next++) work(i);
  };
  std::vector<std::jthread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back(drain);
  drain();
}

Spread spread_of(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  const std::size_t middle = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {values.front(), median, sum / static_cast<double>(values.size()), values.back()};
}

// Whether each of 8 x 8 cells is brighter than the one to its right. Nothing of a flat image, whose
// hash would be noise.
std::optional<std::uint64_t> difference_hash(const cv::Mat& pixels) {
  constexpr int kColumns = 9, kRows = 8;
  constexpr int kContrastMin = 4;  // Of 255.
  cv::Mat gray, cells;
  cv::cvtColor(pixels, gray, cv::COLOR_BGR2GRAY);
  cv::resize(gray, cells, {kColumns, kRows}, 0, 0, cv::INTER_AREA);
  double low = 0, high = 0;
  cv::minMaxLoc(cells, &low, &high);
  if (high - low < kContrastMin) return std::nullopt;
  std::uint64_t hash = 0;
  for (int y = 0; y < kRows; ++y) {
    for (int x = 0; x + 1 < kColumns; ++x) {
      hash =
          hash << 1 | (cells.at<unsigned char>(y, x) > cells.at<unsigned char>(y, x + 1) ? 1U : 0U);
    }
  }
  return hash;
}

void read_size(Image& image) {
  const cv::Size size = read_image_size(image.entry->path);
  image.width = size.width, image.height = size.height;
}

std::optional<ImageFinding> decode(Image& image) {
  const ReadImage read = read_image(image.entry->path);
  image.is_usable = !read.pixels.empty();
  if (!image.is_usable) return ImageFinding{image.entry->path, read.problem, false};
  image.width = read.pixels.cols, image.height = read.pixels.rows;
  image.look = difference_hash(read.pixels);
  if (read.note.empty()) return std::nullopt;
  return ImageFinding{image.entry->path, read.note, true};
}

SplitFacts facts_of(const std::string& split, const std::vector<Image>& images, int class_count) {
  SplitFacts facts;
  facts.name = split;
  facts.boxes_per_class.resize(static_cast<std::size_t>(class_count));
  facts.images_per_class.resize(static_cast<std::size_t>(class_count));
  std::vector<double> counts, aspects, widths, heights;
  for (const Image& image : images) {
    if (split != image.split || !image.is_usable) continue;
    ++facts.images;
    const std::vector<contract::Label>& labels = image.entry->labels;
    if (labels.empty()) ++facts.background;
    facts.boxes += std::ssize(labels);
    counts.push_back(static_cast<double>(labels.size()));
    const auto w = static_cast<double>(image.width), h = static_cast<double>(image.height);
    if (image.width > 0) {
      widths.push_back(w);
      heights.push_back(h);
    } else {
      ++facts.sizes_unknown;
    }
    std::set<int> classes;
    for (const contract::Label& label : labels) {
      ++facts.boxes_per_class.at(static_cast<std::size_t>(label.cls));
      classes.insert(label.cls);
      if (image.width == 0) continue;
      aspects.push_back(label.w * w / (label.h * h));
      const double area = label.w * w * label.h * h;
      ++(area < kSmallAreaMax ? facts.small : area < kMediumAreaMax ? facts.medium : facts.large);
    }
    for (const int cls : classes) ++facts.images_per_class.at(static_cast<std::size_t>(cls));
  }
  facts.boxes_per_image = spread_of(std::move(counts));
  facts.aspect = spread_of(std::move(aspects));
  facts.width = spread_of(std::move(widths));
  facts.height = spread_of(std::move(heights));
  return facts;
}

// Counts pairs, and keeps the first ones of each kind.
class TwinBook {
 public:
  explicit TwinBook(DatasetCheck& check) : check_(check) {}

  void add(const Image& first, const Image& second, bool is_exact, int bits) {
    Twins twins{first.entry->path, second.entry->path, first.split, second.split, is_exact, bits};
    std::int64_t& count = twins.is_leak()
                              ? (is_exact ? check_.leaks_exact : check_.leaks_alike)
                              : (is_exact ? check_.doubles_exact : check_.doubles_alike);
    if (++count <= static_cast<std::int64_t>(kTwinsMax)) check_.twins.push_back(std::move(twins));
  }

  // Leaks first, exact ones before those that look alike.
  void close() {
    std::stable_sort(check_.twins.begin(), check_.twins.end(), [](const Twins& a, const Twins& b) {
      return std::pair(a.is_leak(), a.is_exact) > std::pair(b.is_leak(), b.is_exact);
    });
    if (check_.twins.size() > kTwinsMax) check_.twins.resize(kTwinsMax);
  }

 private:
  DatasetCheck& check_;
};

// Files of the same size are read and compared; each is paired with the first of its content.
// Returns that first one for every image.
std::vector<std::size_t> find_exact(const std::vector<Image>& images, TwinBook& book) {
  std::map<std::uintmax_t, std::vector<std::size_t>> by_size;
  std::vector<std::size_t> first_of(images.size());
  std::iota(first_of.begin(), first_of.end(), std::size_t{0});
  for (std::size_t i = 0; i < images.size(); ++i) {
    std::error_code error;
    const std::uintmax_t size = std::filesystem::file_size(images[i].entry->path, error);
    if (!error && size <= kFileBytesMax) by_size[size].push_back(i);
  }
  const auto bytes_of = [&](std::size_t i) {
    return contract::read_whole_file(images[i].entry->path, kFileBytesMax).bytes;
  };
  for (const auto& [size, group] : by_size) {
    if (group.size() < 2) continue;
    std::unordered_map<std::size_t, std::vector<std::size_t>> by_hash;
    for (const std::size_t i : group) {
      const std::string bytes = bytes_of(i);
      std::vector<std::size_t>& alike = by_hash[std::hash<std::string>{}(bytes)];
      const auto twin = std::find_if(alike.begin(), alike.end(), [&](std::size_t other) {
        // One file named by two splits is a fault of its own, and has been told.
        return images[other].entry->path != images[i].entry->path && bytes_of(other) == bytes;
      });
      if (twin == alike.end()) {
        alike.push_back(i);
      } else {
        first_of[i] = *twin;
        book.add(images[*twin], images[i], true, 0);
      }
    }
  }
  return first_of;
}

// Two hashes within kAlikeBitsMax bits agree in one of kAlikeBitsMax + 1 parts at least: only those
// are compared.
void find_alike(const std::vector<Image>& images, const std::vector<std::size_t>& first_of,
                TwinBook& book) {
  constexpr int kParts = kAlikeBitsMax + 1;
  constexpr int kPartBits = 64 / kParts;
  const auto part_of = [](std::uint64_t hash, int part) {
    return hash >> (part * kPartBits) & ((std::uint64_t{1} << kPartBits) - 1);
  };
  std::array<std::unordered_map<std::uint64_t, std::vector<std::size_t>>, kParts> seen;
  for (std::size_t i = 0; i < images.size(); ++i) {
    if (!images[i].look || first_of[i] != i) continue;
    const std::uint64_t hash = *images[i].look;
    for (int part = 0; part < kParts; ++part) {
      std::vector<std::size_t>& same = seen[static_cast<std::size_t>(part)][part_of(hash, part)];
      for (const std::size_t other : same) {
        const std::uint64_t other_hash = *images[other].look;
        const int bits = std::popcount(hash ^ other_hash);
        bool is_first_meeting = true;  // The pair may agree in an earlier part too.
        for (int before = 0; before < part; ++before) {
          is_first_meeting =
              is_first_meeting && part_of(hash, before) != part_of(other_hash, before);
        }
        if (bits <= kAlikeBitsMax && is_first_meeting &&
            images[other].entry->path != images[i].entry->path) {
          book.add(images[other], images[i], false, bits);
        }
      }
      same.push_back(i);
    }
  }
}

std::vector<std::string> missing_conditions(const contract::DatasetReport& report,
                                            const std::vector<SplitFacts>& splits) {
  const SplitFacts &train = splits[0], &val = splits[1], &test = splits[2];
  std::vector<std::string> missing;
  if (report.dataset.names.empty()) missing.emplace_back("no class has a name");
  if (train.images == 0) missing.emplace_back("no training image can be used");
  if (val.images + test.images == 0) missing.emplace_back("no image of val or test can be used");
  if (train.boxes + val.boxes + test.boxes == 0) missing.emplace_back("no image has a label");
  if (missing.empty()) {
    for (const contract::DataFault& fault : report.faults) {
      if (fault.is_fatal) missing.push_back(fmt::format("{}: {}", fault.where, fault.message));
    }
  }
  if (missing.empty() && train.boxes == 0) {
    missing.emplace_back("no training image that can be used has a label");
  }
  return missing;
}

}  // namespace

DatasetCheck check_dataset(const contract::DatasetReport& report, const CheckOptions& options) {
  const contract::Dataset& dataset = report.dataset;
  std::vector<Image> images;
  const std::array<std::pair<const char*, const std::vector<ImageEntry>*>, 3> splits = {
      {{"train", &dataset.train}, {"val", &dataset.val}, {"test", &dataset.test}}};
  for (const auto& [name, entries] : splits) {
    for (const ImageEntry& entry : *entries) images.push_back({.entry = &entry, .split = name});
  }
  std::vector<std::optional<ImageFinding>> findings(images.size());
  if (options.decode_images) cv::setNumThreads(0);  // OpenCV's own would fight with ours.
  for_each_index(images.size(), options.threads, [&](std::size_t i) {
    if (options.decode_images) {
      findings[i] = decode(images[i]);
    } else {
      read_size(images[i]);
    }
  });

  DatasetCheck check;
  for (std::optional<ImageFinding>& finding : findings) {
    if (finding) check.findings.push_back(std::move(*finding));
  }
  if (options.decode_images) check.decoded = std::ssize(images);
  for (const auto& [name, entries] : splits) {
    check.splits.push_back(facts_of(name, images, static_cast<int>(dataset.names.size())));
  }
  TwinBook book(check);
  const std::vector<std::size_t> first_of = find_exact(images, book);
  find_alike(images, first_of, book);
  book.close();
  check.missing = missing_conditions(report, check.splits);
  return check;
}

}  // namespace trainer
