// SPDX-License-Identifier: Apache-2.0
#include "trainer/scenes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <numbers>
#include <opencv2/core.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <vector>

#include "trainer/random.h"

namespace trainer {
namespace {

namespace fs = std::filesystem;

enum class Kind { kBall, kCrate, kCone, kRing };
constexpr std::array<std::string_view, 4> kNames = {"ball", "crate", "cone", "ring"};

// Colours are linear-looking floats 0..1 in the order blue, green, red, as OpenCV has them.
using Color = cv::Vec3f;

Color from_hsv(double hue_degrees, double saturation, double value) {
  const auto channel = [&](double n) {
    const double k = std::fmod(n + hue_degrees / 60, 6);
    return static_cast<float>(value * (1 - saturation * std::clamp(std::min(k, 4 - k), 0.0, 1.0)));
  };
  return {channel(1), channel(3), channel(5)};
}

// Towards the light: from the upper left, in front.
const cv::Vec3f kLight = cv::normalize(cv::Vec3f(-0.45F, -0.65F, 0.62F));

struct Thing {
  Kind kind = Kind::kBall;
  float x = 0, y = 0;  // Middle, pixels.
  float radius = 0;    // Half of its larger side, about.
  float turn = 0;      // Radians: yaw of a crate, tilt direction of a ring.
  float flatness = 1;  // Of a ring: minor axis / major axis.
  Color color;
};

// What a thing shows at (u, v), in units of its radius from its middle, v downwards.
struct Surface {
  float inside = 0;  // Distance to the edge in the same units; negative outside.
  Color color;
};

Color lit(const Color& color, const cv::Vec3f& normal, float gloss) {
  const float diffuse = std::max(0.0F, normal.dot(kLight));
  const cv::Vec3f mirror = 2 * normal.dot(kLight) * normal - kLight;
  const float highlight = gloss * std::pow(std::max(0.0F, mirror[2]), 24.0F);
  return color * (0.32F + 0.75F * diffuse) + Color(highlight, highlight, highlight);
}

Surface ball_at(const Thing& thing, float u, float v) {
  const float r = std::hypot(u, v);
  const float depth = std::sqrt(std::max(0.0F, 1 - r * r));
  return {1 - r, lit(thing.color, {u, v, depth}, 0.55F)};
}

// A band of white on a cone that is round: brightness follows the normal across.
Surface cone_at(const Thing& thing, float u, float v) {
  constexpr float kTop = -1, kFoot = 0.78F, kHalfFoot = 0.72F, kFootDepth = 0.22F;
  constexpr float kHalfTop = 0.07F, kSlope = (kHalfFoot - kHalfTop) / (kFoot - kTop);
  const float half_width = kHalfTop + (v - kTop) * kSlope;
  const float to_side = (half_width - std::abs(u)) / std::sqrt(1 + kSlope * kSlope);
  const float on_side = std::min({to_side, v - kTop, kFoot - v});
  const float foot = 1 - std::hypot(u / kHalfFoot, (v - kFoot) / kFootDepth);
  const float in_foot = foot * kFootDepth;

  const float across = std::clamp(u / std::max(half_width, 0.05F), -1.0F, 1.0F);
  const cv::Vec3f normal =
      cv::normalize(cv::Vec3f(across, -kSlope, std::sqrt(std::max(0.02F, 1 - across * across))));
  const float sag = 0.10F * std::sqrt(std::max(0.0F, 1 - across * across));  // Bands are round too.
  const float height = v - sag;
  const bool is_band = (height > -0.42F && height < -0.12F) || (height > 0.22F && height < 0.48F);
  return {std::max(on_side, in_foot),
          lit(is_band ? Color(0.93F, 0.94F, 0.95F) : thing.color, normal, 0.15F)};
}

// A torus seen at a slant.
Surface ring_at(const Thing& thing, float u, float v) {
  constexpr float kMiddle = 0.70F, kTube = 0.29F;
  const float c = std::cos(thing.turn), s = std::sin(thing.turn);
  const float along = c * u + s * v, across = (-s * u + c * v) / thing.flatness;
  const float r = std::max(1e-4F, std::hypot(along, across));
  const float offset = (r - kMiddle) / kTube;
  const float out = std::clamp(offset, -1.0F, 1.0F);
  const float a = along / r, b = across / r;
  const cv::Vec3f normal(out * (c * a - s * b), out * (s * a + c * b),
                         std::sqrt(std::max(0.0F, 1 - out * out)));
  const float stretch = std::hypot(a, b / thing.flatness);  // Of distances, by the slant.
  return {kTube * (1 - std::abs(offset)) / stretch, lit(thing.color, normal, 0.5F)};
}

// A wooden cube seen from above: three faces of planks.
Surface crate_at(const Thing& thing, float u, float v) {
  constexpr float kPitchSine = 0.50F, kPitchCosine = 0.866F, kHalf = 0.62F;
  const float c = std::cos(thing.turn), s = std::sin(thing.turn);
  // Directions of the cube's axes on the picture, from its middle.
  const cv::Vec2f right(c, s * kPitchSine), back(-s, c * kPitchSine), up(0, -kPitchCosine);
  struct Face {
    cv::Vec2f normal_axis, side, other;
    cv::Vec3f normal;
  };
  const std::array<Face, 3> faces = {{{up, right, back, {0, -kPitchCosine, kPitchSine}},
                                      {back, right, up, {-s, c * kPitchSine, c * kPitchCosine}},
                                      {right, back, up, {c, s * kPitchSine, s * kPitchCosine}}}};
  Surface best{-1, thing.color};
  for (const Face& face : faces) {
    // (u, v) = half * (normal_axis + p * side + q * other), solved for p and q.
    const float x = u / kHalf - face.normal_axis[0], y = v / kHalf - face.normal_axis[1];
    const float area = face.side[0] * face.other[1] - face.side[1] * face.other[0];
    const float p = (x * face.other[1] - y * face.other[0]) / area;
    const float q = (face.side[0] * y - face.side[1] * x) / area;
    const float to_p =
        (1 - std::abs(p)) * std::abs(area) / static_cast<float>(cv::norm(face.other));
    const float to_q = (1 - std::abs(q)) * std::abs(area) / static_cast<float>(cv::norm(face.side));
    const float inside = std::min(to_p, to_q) * kHalf;
    if (inside <= best.inside) continue;
    const bool is_frame = std::max(std::abs(p), std::abs(q)) > 0.78F;
    const float plank = std::abs(std::fmod(p * 2.0F + 8, 1.0F) - 0.5F);
    const float tone = is_frame ? 1.12F : plank > 0.44F ? 0.62F : 0.92F;
    const float edge = inside < 0.02F ? 0.75F : 1.0F;
    best = {inside, lit(thing.color * tone * edge, face.normal, 0.05F)};
  }
  return best;
}

Surface surface_at(const Thing& thing, float u, float v) {
  switch (thing.kind) {
    case Kind::kBall:
      return ball_at(thing, u, v);
    case Kind::kCrate:
      return crate_at(thing, u, v);
    case Kind::kCone:
      return cone_at(thing, u, v);
    case Kind::kRing:
      return ring_at(thing, u, v);
  }
  return {};
}

// Smooth noise of a given grain, mean 0, about -1..1.
cv::Mat smooth_noise(int size, int cells, Random& random) {
  cv::Mat coarse(cells, cells, CV_32F);
  for (int y = 0; y < cells; ++y) {
    for (int x = 0; x < cells; ++x) {
      coarse.at<float>(y, x) = static_cast<float>(random.uniform(-1, 1));
    }
  }
  cv::Mat fine;
  cv::resize(coarse, fine, {size, size}, 0, 0, cv::INTER_CUBIC);
  return fine;
}

// A table top: a soft gradient of a quiet colour, blotches, and fine grain along one direction.
cv::Mat draw_background(int size, Random& random) {
  const double hue = random.uniform(0, 360), saturation = random.uniform(0.04, 0.22);
  const Color far = from_hsv(hue, saturation, random.uniform(0.55, 0.9));
  const Color near = from_hsv(hue + random.uniform(-40, 40), saturation, random.uniform(0.4, 0.75));
  const cv::Mat blotches = smooth_noise(size, 5, random),
                grain = smooth_noise(size, size / 6, random);
  const double slant = random.uniform(-0.4, 0.4);
  cv::Mat picture(size, size, CV_32FC3);
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; ++x) {
      const double fx = static_cast<double>(x) / size - 0.5, fy = static_cast<double>(y) / size;
      const auto t = static_cast<float>(std::clamp(fy + slant * fx, 0.0, 1.0));
      const float light =
          1 + 0.07F * blotches.at<float>(y, x) + 0.035F * grain.at<float>(y, x) -
          0.22F * static_cast<float>(fx * fx + (fy - 0.5) * (fy - 0.5));  // Darker corners.
      picture.at<Color>(y, x) = (far * (1 - t) + near * t) * light;
    }
  }
  return picture;
}

// A soft ellipse on the table, at the foot of the thing and away from the light.
void draw_shadow(cv::Mat& picture, const Thing& thing) {
  const float foot = thing.kind == Kind::kRing ? thing.flatness * 0.4F : 0.72F;
  const float cx = thing.x + 0.22F * thing.radius, cy = thing.y + foot * thing.radius;
  const float rx = 1.05F * thing.radius, ry = 0.42F * thing.radius;
  const int x1 = std::max(0, static_cast<int>(cx - 1.5F * rx));
  const int x2 = std::min(picture.cols, static_cast<int>(cx + 1.5F * rx) + 1);
  const int y1 = std::max(0, static_cast<int>(cy - 1.5F * ry));
  const int y2 = std::min(picture.rows, static_cast<int>(cy + 1.5F * ry) + 1);
  for (int y = y1; y < y2; ++y) {
    for (int x = x1; x < x2; ++x) {
      const float r =
          std::hypot((static_cast<float>(x) - cx) / rx, (static_cast<float>(y) - cy) / ry);
      const float t = std::clamp((1.45F - r) / 1.0F, 0.0F, 1.0F);
      picture.at<Color>(y, x) *= 1 - 0.5F * t * t * (3 - 2 * t);
    }
  }
}

struct Extent {
  int x1 = 1 << 20, y1 = 1 << 20, x2 = 0, y2 = 0;  // Half open.
};

// Calls `visit(x, y, coverage, color)` for each pixel that the thing covers, wholly or in part.
template <typename Visit>
void for_each_pixel(const Thing& thing, int size, Visit visit) {
  const float reach = 1.35F * thing.radius + 1;
  const int x1 = std::max(0, static_cast<int>(thing.x - reach));
  const int x2 = std::min(size, static_cast<int>(thing.x + reach) + 1);
  const int y1 = std::max(0, static_cast<int>(thing.y - reach));
  const int y2 = std::min(size, static_cast<int>(thing.y + reach) + 1);
  for (int y = y1; y < y2; ++y) {
    for (int x = x1; x < x2; ++x) {
      const float u = (static_cast<float>(x) + 0.5F - thing.x) / thing.radius;
      const float v = (static_cast<float>(y) + 0.5F - thing.y) / thing.radius;
      const Surface surface = surface_at(thing, u, v);
      const float coverage = std::clamp(surface.inside * thing.radius + 0.5F, 0.0F, 1.0F);
      if (coverage > 0) visit(x, y, coverage, surface.color);
    }
  }
}

Extent extent_of(const Thing& thing, int size) {
  Extent extent;
  for_each_pixel(thing, size, [&](int x, int y, float coverage, const Color&) {
    if (coverage < 0.5F) return;
    extent.x1 = std::min(extent.x1, x), extent.x2 = std::max(extent.x2, x + 1);
    extent.y1 = std::min(extent.y1, y), extent.y2 = std::max(extent.y2, y + 1);
  });
  return extent;
}

Thing draw_lots(int size, Random& random) {
  Thing thing;
  thing.kind = static_cast<Kind>(random.below(std::ssize(kNames)));
  // Sides of 15 to 45 % of the picture, small ones more often.
  const double share = 0.15 + 0.30 * std::pow(random.uniform(), 1.4);
  thing.radius = static_cast<float>(share * size / 2);
  const float margin = 1.05F * thing.radius;
  thing.x = static_cast<float>(random.uniform(margin, size - margin));
  thing.y = static_cast<float>(random.uniform(margin, size - margin));
  const double jitter = random.uniform(-12, 12), value = random.uniform(0.75, 1.0);
  switch (thing.kind) {
    case Kind::kBall:
      thing.color = from_hsv(215 + jitter, 0.80, value);
      break;
    case Kind::kCrate:
      thing.color = from_hsv(34 + jitter / 3, 0.58, 0.92 * value);
      break;
    case Kind::kCone:
      thing.color = from_hsv(14 + jitter / 2, 0.92, value);
      break;
    case Kind::kRing:
      thing.color = from_hsv(320 + jitter, 0.62, value);
      break;
  }
  if (thing.kind == Kind::kCrate) {
    thing.turn = static_cast<float>(random.uniform(0.2, std::numbers::pi / 2 - 0.2));
  } else if (thing.kind == Kind::kRing) {
    thing.turn = static_cast<float>(random.uniform(-0.5, 0.5));
    thing.flatness = static_cast<float>(random.uniform(0.5, 1.0));
  }
  return thing;
}

bool is_crowded(const Extent& a, const Extent& b) {
  const auto area = [](int w, int h) { return std::max(0, w) * std::max(0, h); };
  const int shared = area(std::min(a.x2, b.x2) - std::max(a.x1, b.x1),
                          std::min(a.y2, b.y2) - std::max(a.y1, b.y1));
  const int smaller = std::min(area(a.x2 - a.x1, a.y2 - a.y1), area(b.x2 - b.x1, b.y2 - b.y1));
  return shared * 6 > smaller;
}

struct Scene {
  cv::Mat picture;     // BGR, 8 bit.
  std::string labels;  // Of the label file.
};

Scene draw_scene(int size, Random random) {
  struct Placed {
    Thing thing;
    Extent extent;
  };
  std::vector<Placed> placed;
  const std::int64_t wanted = 2 + random.below(4);
  for (int attempt = 0; attempt < 60 && std::ssize(placed) < wanted; ++attempt) {
    const Thing thing = draw_lots(size, random);
    const Extent extent = extent_of(thing, size);
    const bool is_free = std::none_of(placed.begin(), placed.end(), [&](const Placed& other) {
      return is_crowded(extent, other.extent);
    });
    if (is_free) placed.push_back({thing, extent});
  }
  // What stands lower on the picture is nearer, and hides what is behind.
  std::sort(placed.begin(), placed.end(),
            [](const Placed& a, const Placed& b) { return a.extent.y2 < b.extent.y2; });

  Scene scene;
  cv::Mat picture = draw_background(size, random);
  for (const Placed& one : placed) draw_shadow(picture, one.thing);
  for (const auto& [thing, extent] : placed) {
    for_each_pixel(thing, size, [&](int x, int y, float coverage, const Color& color) {
      Color& pixel = picture.at<Color>(y, x);
      pixel = pixel * (1 - coverage) + color * coverage;
    });
    const double side = size;
    scene.labels +=
        fmt::format("{} {:.6f} {:.6f} {:.6f} {:.6f}\n", static_cast<int>(thing.kind),
                    (extent.x1 + extent.x2) / 2 / side, (extent.y1 + extent.y2) / 2 / side,
                    (extent.x2 - extent.x1) / side, (extent.y2 - extent.y1) / side);
  }

  // Grain of a camera: the sum of two uniform numbers is bell-shaped enough.
  const float noise = static_cast<float>(random.uniform(0.004, 0.02));
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; ++x) {
      const std::uint64_t bits = random.bits();
      Color& pixel = picture.at<Color>(y, x);
      for (int c = 0; c < 3; ++c) {
        const auto sum =
            static_cast<float>((bits >> (16 * c) & 0xff) + (bits >> (16 * c + 8) & 0xff));
        pixel[c] += noise * (sum / 255 - 1);
      }
    }
  }
  picture.convertTo(scene.picture, CV_8UC3, 255);
  return scene;
}

void write_file(const fs::path& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  file.close();
  if (!file) throw std::runtime_error(fmt::format("{}: cannot be written", path.string()));
}

void write_split(const SceneOptions& options, const std::string& split, int count,
                 std::uint64_t stream) {
  const fs::path images = fs::path(options.out) / "images" / split;
  const fs::path labels = fs::path(options.out) / "labels" / split;
  for (const fs::path& folder : {images, labels}) {
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) {
      throw std::runtime_error(fmt::format("{}: {}", folder.string(), error.message()));
    }
  }
  for (int i = 0; i < count; ++i) {
    const Scene scene =
        draw_scene(options.size, Random(options.seed, stream, static_cast<std::uint64_t>(i)));
    std::vector<unsigned char> jpeg;
    cv::imencode(".jpg", scene.picture, jpeg, {cv::IMWRITE_JPEG_QUALITY, 92});
    const std::string name = fmt::format("scene_{:05}", i);
    write_file(images / (name + ".jpg"), {reinterpret_cast<const char*>(jpeg.data()), jpeg.size()});
    write_file(labels / (name + ".txt"), scene.labels);
  }
}

}  // namespace

void make_scenes(const SceneOptions& options) {
  constexpr int kSizeMin = 64;
  if (options.size < kSizeMin || options.train < 1 || options.val < 1) {
    throw std::invalid_argument(
        fmt::format("scenes: {} + {} images of {} px; at least 1 + 1 of {} px", options.train,
                    options.val, options.size, kSizeMin));
  }
  write_split(options, "train", options.train, 0);
  write_split(options, "val", options.val, 1);
  std::string yaml =
      "# Drawn scenes with true boxes.\npath: .\ntrain: images/train\nval: images/val\nnames:\n";
  for (std::size_t i = 0; i < kNames.size(); ++i) yaml += fmt::format("  {}: {}\n", i, kNames[i]);
  write_file(fs::path(options.out) / "data.yaml", yaml);
}

}  // namespace trainer
