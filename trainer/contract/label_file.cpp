// SPDX-License-Identifier: Apache-2.0
#include "trainer/contract/label_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <tuple>
#include <variant>

namespace contract {
namespace {

constexpr std::size_t kColumns = 5;
constexpr std::size_t kPolygonColumnsMin = 7;  // Three points.
constexpr std::array<std::string_view, kColumns> kColumnNames = {"class", "xc", "yc", "w", "h"};
constexpr double kCoordinateMin = -0.01, kCoordinateMax = 1.01;  // As the reference tolerates.
constexpr std::size_t kFaultsPerFileMax = 3;                     // A binary file has thousands.

using Fields = std::vector<std::string_view>;

Fields split(std::string_view line) {
  constexpr std::string_view kBlank = " \t\r\v\f";
  Fields fields;
  std::size_t at = line.find_first_not_of(kBlank);
  while (at != std::string_view::npos) {
    const std::size_t end = std::min(line.find_first_of(kBlank, at), line.size());
    fields.push_back(line.substr(at, end - at));
    at = line.find_first_not_of(kBlank, end);
  }
  return fields;
}

// Locale plays no part. "nan" and "inf" are read, and refused by the caller's range.
std::optional<double> parse_number(std::string_view text) {
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

using Message = std::string;

// The middle and the size of what lies around the points x1 y1 x2 y2 ... behind the class.
Label around_points(const std::vector<double>& values) {
  double low[2] = {1, 1}, high[2] = {0, 0};  // x and y; all points lie in 0..1.
  for (std::size_t i = 1; i < values.size(); ++i) {
    const std::size_t axis = (i - 1) % 2;
    const double value = std::clamp(values[i], 0.0, 1.0);
    low[axis] = std::min(low[axis], value);
    high[axis] = std::max(high[axis], value);
  }
  return {static_cast<int>(values[0]), static_cast<float>((low[0] + high[0]) / 2),
          static_cast<float>((low[1] + high[1]) / 2), static_cast<float>(high[0] - low[0]),
          static_cast<float>(high[1] - low[1])};
}

std::variant<Label, Message> parse_row(const Fields& fields, int class_count) {
  const bool is_polygon = fields.size() >= kPolygonColumnsMin && fields.size() % 2 == 1;
  if (fields.size() != kColumns && !is_polygon) {
    return fmt::format("{} instead of 5 (class xc yc w h){}.",
                       counted(static_cast<long long>(fields.size()), "column"),
                       fields.size() > kPolygonColumnsMin
                           ? ", or an odd number (class x1 y1 x2 y2 x3 y3 ...)"
                           : "");
  }
  const auto name_of = [&](std::size_t i) {
    if (i == 0 || !is_polygon) return std::string(kColumnNames[i]);
    return fmt::format("{}{}", i % 2 == 1 ? "x" : "y", (i + 1) / 2);
  };
  std::vector<double> values(fields.size());
  for (std::size_t i = 0; i < fields.size(); ++i) {
    const std::optional<double> value = parse_number(fields[i]);
    if (!value) {
      return fmt::format("{} \"{}\" is not a number.", name_of(i), printable(fields[i], 40));
    }
    values[i] = *value;
  }
  const std::string cls = printable(fields[0], 40);
  if (std::isnan(values[0]) || values[0] != std::floor(values[0])) {
    return fmt::format("class {} is not a whole number.", cls);
  }
  if (values[0] < 0) return fmt::format("class {} is below 0.", cls);
  if (values[0] >= class_count)
    return fmt::format("class {} is not below nc = {}.", cls, class_count);
  for (std::size_t i = 1; i < fields.size(); ++i) {
    if (!(values[i] >= kCoordinateMin && values[i] <= kCoordinateMax)) {
      return fmt::format("{} = {} is not within 0..1. Coordinates are fractions of the image.",
                         name_of(i), printable(fields[i], 40));
    }
  }
  if (is_polygon) return around_points(values);
  const auto fraction = [&](std::size_t i) {
    return static_cast<float>(std::clamp(values[i], 0.0, 1.0));
  };
  return Label{static_cast<int>(values[0]), fraction(1), fraction(2), fraction(3), fraction(4)};
}

}  // namespace

LabelFile parse_label_file(std::string_view text, int class_count) {
  LabelFile file;
  std::set<std::tuple<int, float, float, float, float>> seen;
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // Byte order mark.

  for (int line = 1; !text.empty(); ++line) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const Fields fields = split(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (fields.empty()) continue;
    if (file.faults.size() == kFaultsPerFileMax) {
      file.faults.push_back({line, "the rows from here on were not checked."});
      break;
    }
    const std::variant<Label, Message> row = parse_row(fields, class_count);
    if (const Message* message = std::get_if<Message>(&row)) {
      file.faults.push_back({line, *message});
      continue;
    }
    const Label& label = std::get<Label>(row);
    if (label.w <= 0 || label.h <= 0) {
      file.notes.push_back({line, "the box has no area; the row is left out."});
    } else if (seen.emplace(label.cls, label.xc, label.yc, label.w, label.h).second) {
      file.labels.push_back(label);
    }
  }
  return file;
}

}  // namespace contract
