// SPDX-License-Identifier: Apache-2.0
#include "trainer/loader.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <numeric>
#include <opencv2/core.hpp>
#include <set>
#include <stdexcept>
#include <utility>

#include "trainer/augment.h"
#include "trainer/image.h"
#include "trainer/image_store.h"
#include "trainer/prefetcher.h"
#include "trainer/random.h"
#include "trainer/rect.h"
#include "trainer/sampler.h"

namespace trainer {
namespace {

// A mosaic takes its other images from this many positions before its own, as the reference does
// (eight batches), so that each image is decoded once and not four times. Fixed, for what a batch
// holds must not hang on how it is loaded.
constexpr std::int64_t kMosaicWindow = 256;

std::size_t bytes_per_sample(int imgsz) {
  return std::size_t{3} * static_cast<std::size_t>(imgsz) * static_cast<std::size_t>(imgsz);
}

float ratio(int resized, int original) {
  return static_cast<float>(static_cast<double>(resized) / original);
}

// OpenCV's own threads would fight with ours and with torch's for the same cores.
void keep_opencv_single_threaded() {
  cv::setNumThreads(0);
}

Batch to_tensors(std::shared_ptr<RawBatch> raw, cv::Size frame) {
  Batch batch;
  const auto count = static_cast<std::int64_t>(raw->samples.size());
  unsigned char* pixels = raw->pixels.get();
  batch.images = torch::from_blob(
      pixels, {count, 3, frame.height, frame.width}, [raw](void*) {},
      torch::kUInt8);  // Lives as long as the tensor.

  std::vector<float> targets;
  for (std::size_t i = 0; i < raw->samples.size(); ++i) {
    const RawBatch::Sample& sample = raw->samples[i];
    for (const contract::Label& label : sample.labels) {
      targets.insert(targets.end(), {static_cast<float>(i), static_cast<float>(label.cls), label.xc,
                                     label.yc, label.w, label.h});
    }
    batch.sources.push_back({.index = sample.index,
                             .width = sample.original.width,
                             .height = sample.original.height,
                             .gain_x = ratio(sample.resized.width, sample.original.width),
                             .gain_y = ratio(sample.resized.height, sample.original.height),
                             .pad_x = static_cast<float>(sample.left),
                             .pad_y = static_cast<float>(sample.top)});
  }
  constexpr std::int64_t kColumns = 6;
  const auto rows = static_cast<std::int64_t>(targets.size()) / kColumns;
  batch.targets = torch::from_blob(targets.data(), {rows, kColumns}, torch::kFloat32).clone();
  return batch;
}

}  // namespace

struct TrainLoader::Impl {
  struct Mixing {  // Probabilities of what makes one image of several.
    double mosaic = 0, mixup = 0;
  };

  Impl(const std::vector<contract::ImageEntry>& train_images, const contract::TrainArgs& train_args,
       Options loader_options, Shard shard)
      : images(train_images),
        args(train_args),
        options(loader_options),
        layout{loader_options.batch_per_rank, shard.rank, shard.world},
        store(train_images, loader_options.imgsz,
              static_cast<std::size_t>(kMosaicWindow + 2 * loader_options.threads),
              loader_options.cache),
        prefetcher(loader_options.threads, loader_options.batch_per_rank,
                   bytes_per_sample(loader_options.imgsz)) {}

  [[nodiscard]] Sample load(std::int64_t index) {
    const ImageStore::Fitted image = store.get(index);
    const auto w = static_cast<float>(image.pixels.cols), h = static_cast<float>(image.pixels.rows);
    Sample sample{image.pixels, {}};
    for (const contract::Label& label : images[static_cast<std::size_t>(index)].labels) {
      sample.boxes.push_back({args.single_cls ? 0 : label.cls, (label.xc - label.w / 2) * w,
                              (label.yc - label.h / 2) * h, (label.xc + label.w / 2) * w,
                              (label.yc + label.h / 2) * h});
    }
    return sample;
  }

  // Another image than that of `position`, one that was decoded a moment ago.
  [[nodiscard]] std::int64_t another(const EpochOrder& order, std::int64_t position,
                                     Random& random) {
    const std::int64_t window =
        std::min<std::int64_t>(kMosaicWindow, static_cast<std::int64_t>(images.size()));
    return store.usable_from(order.image_before(position, 1 + random.below(window)));
  }

  // The image, alone or in a mosaic, moved and cut to the square.
  [[nodiscard]] Sample composed(std::int64_t index, const EpochOrder& order, std::int64_t position,
                                double mosaic_probability, Random& random) {
    Sample sample;
    if (random.chance(mosaic_probability)) {
      std::array<Sample, 4> parts;
      parts[0] = load(index);
      for (std::size_t i = 1; i < parts.size(); ++i) {
        parts[i] = load(another(order, position, random));
      }
      sample = mosaic(parts, options.imgsz, random);
    } else {
      sample = on_square(load(index), options.imgsz);
    }
    return random_perspective(sample, options.imgsz, args, random);
  }

  // The sample at a position of an epoch: a function of its arguments and the images alone.
  [[nodiscard]] Sample augmented(const EpochOrder& order, std::int64_t epoch, std::int64_t position,
                                 const Mixing& mixing, std::int64_t& index) {
    Random random(options.seed, static_cast<std::uint64_t>(epoch),
                  static_cast<std::uint64_t>(position));
    index = store.usable_from(order.image_at(position));
    Sample sample = composed(index, order, position, mixing.mosaic, random);
    if (mixing.mixup > 0 && random.chance(mixing.mixup)) {
      const std::int64_t other = another(order, position, random);
      sample = mix_up(sample, composed(other, order, position, mixing.mosaic, random), random);
    }
    jitter_colors(sample.pixels, args, random);
    flip_randomly(sample, args, random);
    swap_channels_randomly(sample, args, random);
    return sample;
  }

  void fill(RawBatch& batch, int slot, const EpochOrder& order, std::int64_t epoch,
            const Mixing& mixing) {
    RawBatch::Sample& target = batch.samples[static_cast<std::size_t>(slot)];
    const Sample sample =
        augmented(order, epoch, layout.position(batch.number, slot), mixing, target.index);
    write_rgb_planes(sample.pixels, batch.pixels.get() + static_cast<std::size_t>(slot) *
                                                             bytes_per_sample(options.imgsz));
    target.original = target.resized = sample.pixels.size();
    const auto side = static_cast<float>(options.imgsz);
    for (const PixelBox& box : sample.boxes) {
      target.labels.push_back({box.cls, (box.x1 + box.x2) / 2 / side, (box.y1 + box.y2) / 2 / side,
                               (box.x2 - box.x1) / side, (box.y2 - box.y1) / side});
    }
  }

  const std::vector<contract::ImageEntry>& images;
  const contract::TrainArgs args;
  const Options options;
  const BatchLayout layout;
  ImageStore store;
  Prefetcher prefetcher;  // Last: its threads end before what they use.
};

TrainLoader::TrainLoader(const std::vector<contract::ImageEntry>& images,
                         const contract::TrainArgs& args, Options options, Shard shard) {
  if (images.empty()) throw std::invalid_argument("no training images");
  if (options.batch_per_rank < 1 || options.imgsz < 1 || shard.rank < 0 ||
      shard.rank >= shard.world) {
    throw std::invalid_argument(fmt::format("batch of {} images of {} px for rank {} of {}",
                                            options.batch_per_rank, options.imgsz, shard.rank,
                                            shard.world));
  }
  keep_opencv_single_threaded();
  options.threads = std::max(1, options.threads);
  impl_ = std::make_unique<Impl>(images, args, options, shard);
}

TrainLoader::~TrainLoader() = default;

std::int64_t TrainLoader::batches_per_epoch() const {
  return impl_->layout.batches_per_epoch(static_cast<std::int64_t>(impl_->images.size()));
}

void TrainLoader::start_epoch(std::int64_t epoch, std::int64_t first_batch, bool with_mosaic) {
  Impl* impl = impl_.get();
  const auto order = std::make_shared<const EpochOrder>(
      static_cast<std::int64_t>(impl->images.size()), impl->options.seed, epoch);
  const Impl::Mixing mixing =
      with_mosaic ? Impl::Mixing{impl->args.mosaic, impl->args.mixup} : Impl::Mixing{};
  const std::int64_t batches = batches_per_epoch();
  impl->prefetcher.start(first_batch, batches, batches * impl->options.batch_per_rank,
                         [impl, order, epoch, mixing](RawBatch& batch, int sample) {
                           impl->fill(batch, sample, *order, epoch, mixing);
                         });
}

Batch TrainLoader::next() {
  std::shared_ptr<RawBatch> raw = impl_->prefetcher.next();
  if (!raw) throw std::logic_error("TrainLoader::next after the last batch of the epoch");
  return to_tensors(std::move(raw), {impl_->options.imgsz, impl_->options.imgsz});
}

std::string TrainLoader::why_unusable() {
  try {
    static_cast<void>(impl_->store.usable_from(0));
    return {};
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

std::vector<std::string> TrainLoader::take_unreadable() {
  return impl_->store.take_unreadable();
}

std::vector<std::string> TrainLoader::take_odd() {
  return impl_->store.take_odd();
}

namespace {

// In the order of validation: which image, and what it is letterboxed to.
RectPlan plan_frames(const std::vector<contract::ImageEntry>& images, int imgsz, ValFrame frame,
                     std::int64_t group) {
  if (frame == ValFrame::kRect) {
    std::vector<cv::Size> sizes;
    for (const contract::ImageEntry& image : images) {
      const cv::Size size = read_image_size(image.path);
      sizes.push_back(size.empty() ? cv::Size(imgsz, imgsz) : size);
    }
    return plan_rect(sizes, imgsz, group);
  }
  RectPlan plan;
  plan.order.resize(images.size());
  std::iota(plan.order.begin(), plan.order.end(), 0);
  plan.shapes.assign(images.size() / static_cast<std::size_t>(group) + 1, {imgsz, imgsz});
  return plan;
}

std::size_t bytes_of_largest(const RectPlan& plan) {
  std::size_t most = 0;
  for (const cv::Size& shape : plan.shapes) {
    most = std::max(most, 3 * static_cast<std::size_t>(shape.area()));
  }
  return most;
}

}  // namespace

struct ValLoader::Impl {
  Impl(const std::vector<contract::ImageEntry>& val_images, int side, int batch, int threads,
       bool is_single_class, Shard val_shard, ValFrame val_frame)
      : images(val_images),
        imgsz(side),
        batch_size(batch),
        single_cls(is_single_class),
        shard(val_shard),
        plan(plan_frames(val_images, side, val_frame, std::int64_t{batch} * val_shard.world)),
        prefetcher(threads, batch, bytes_of_largest(plan)) {}

  [[nodiscard]] cv::Size frame_of(const RawBatch& batch) const {
    return plan.shapes[static_cast<std::size_t>(batch.number)];
  }

  void fill(RawBatch& batch, int slot) {
    RawBatch::Sample& target = batch.samples[static_cast<std::size_t>(slot)];
    const std::int64_t position = (batch.number * batch_size + slot) * shard.world + shard.rank;
    target.index = plan.order[static_cast<std::size_t>(position)];
    const contract::ImageEntry& entry = images[static_cast<std::size_t>(target.index)];
    ReadImage read = read_image(entry.path);
    const bool is_usable = !read.pixels.empty();
    if (!is_usable) {
      name_once(target.index, fmt::format("{}: {}", entry.path, read.problem), unreadable);
      read.pixels = cv::Mat(imgsz, imgsz, CV_8UC3, cv::Scalar::all(kPaddingGray));
      target.index = -1;
    } else if (!read.note.empty()) {
      name_once(target.index, fmt::format("{}: {}", entry.path, read.note), odd);
    }
    const cv::Size frame = frame_of(batch);
    const Letterbox letterbox = plan_validation_letterbox(read.pixels.size(), imgsz, frame);
    write_rgb_planes(apply_letterbox(read.pixels, letterbox),
                     batch.pixels.get() + static_cast<std::size_t>(slot) * 3 *
                                              static_cast<std::size_t>(frame.area()));
    target.original = read.pixels.size();
    target.resized = letterbox.resized;
    target.left = letterbox.left;
    target.top = letterbox.top;
    if (is_usable) target.labels = letterboxed(entry.labels, target, frame);
  }

  [[nodiscard]] std::vector<contract::Label> letterboxed(std::vector<contract::Label> labels,
                                                         const RawBatch::Sample& sample,
                                                         cv::Size frame) const {
    const double width = frame.width, height = frame.height;
    const double gain_x = sample.resized.width / width, gain_y = sample.resized.height / height;
    for (contract::Label& label : labels) {
      label = {single_cls ? 0 : label.cls,
               static_cast<float>(label.xc * gain_x + sample.left / width),
               static_cast<float>(label.yc * gain_y + sample.top / height),
               static_cast<float>(label.w * gain_x), static_cast<float>(label.h * gain_y)};
    }
    return labels;
  }

  void name_once(std::int64_t index, std::string message, std::vector<std::string>& messages) {
    const std::lock_guard lock(mutex);
    if (named.insert(index).second) messages.push_back(std::move(message));
  }

  const std::vector<contract::ImageEntry>& images;
  const int imgsz, batch_size;
  const bool single_cls;
  const Shard shard;
  const RectPlan plan;
  std::mutex mutex;
  std::set<std::int64_t> named;
  std::vector<std::string> unreadable, odd;  // Not yet taken.
  Prefetcher prefetcher;                     // Last: its threads end before what they use.
};

ValLoader::ValLoader(const std::vector<contract::ImageEntry>& images, int imgsz, int batch,
                     int threads, bool single_cls, Shard shard, ValFrame frame) {
  keep_opencv_single_threaded();
  impl_ = std::make_unique<Impl>(images, imgsz, batch, threads, single_cls, shard, frame);
}

ValLoader::~ValLoader() = default;

void ValLoader::start() {
  const auto& [rank, world] = impl_->shard;
  const auto all = static_cast<std::int64_t>(impl_->images.size());
  const std::int64_t mine = (all - rank + world - 1) / world;
  const std::int64_t batches = (mine + impl_->batch_size - 1) / impl_->batch_size;
  Impl* impl = impl_.get();
  impl_->prefetcher.start(0, batches, mine,
                          [impl](RawBatch& batch, int sample) { impl->fill(batch, sample); });
}

bool ValLoader::next(Batch& batch) {
  std::shared_ptr<RawBatch> raw = impl_->prefetcher.next();
  if (!raw) return false;
  const cv::Size frame = impl_->frame_of(*raw);
  batch = to_tensors(std::move(raw), frame);
  return true;
}

std::vector<std::string> ValLoader::take_unreadable() {
  const std::lock_guard lock(impl_->mutex);
  return std::exchange(impl_->unreadable, {});
}

std::vector<std::string> ValLoader::take_odd() {
  const std::lock_guard lock(impl_->mutex);
  return std::exchange(impl_->odd, {});
}

}  // namespace trainer
