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
constexpr std::array<std::string_view, kColumns> kColumnNames = {"class", "xc", "yc", "w", "h"};
constexpr double kCoordinateMin = -0.01, kCoordinateMax = 1.01;  // As the reference tolerates.
constexpr std::size_t kFaultsPerFileMax = 3;                     // A binary file has thousands.

struct Fields {
  std::array<std::string_view, kColumns> columns;
  std::size_t count = 0;  // May be above kColumns.
};

Fields split(std::string_view line) {
  constexpr std::string_view kBlank = " \t\r\v\f";
  Fields fields;
  std::size_t at = line.find_first_not_of(kBlank);
  while (at != std::string_view::npos) {
    const std::size_t end = std::min(line.find_first_of(kBlank, at), line.size());
    if (fields.count < kColumns) fields.columns[fields.count] = line.substr(at, end - at);
    ++fields.count;
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

std::variant<Label, Message> parse_row(const Fields& fields, int class_count) {
  if (fields.count != kColumns) {
    const bool is_polygon = fields.count >= 7 && fields.count % 2 == 1;
    return fmt::format("{} instead of 5 (class xc yc w h).{}", counted(fields.count, "column"),
                       is_polygon ? " Polygons are not read: give boxes." : "");
  }
  std::array<double, kColumns> values{};
  for (std::size_t i = 0; i < kColumns; ++i) {
    const std::optional<double> value = parse_number(fields.columns[i]);
    if (!value) {
      return fmt::format("{} \"{}\" is not a number.", kColumnNames[i],
                         printable(fields.columns[i], 40));
    }
    values[i] = *value;
  }
  const std::string cls = printable(fields.columns[0], 40);
  if (std::isnan(values[0]) || values[0] != std::floor(values[0])) {
    return fmt::format("class {} is not a whole number.", cls);
  }
  if (values[0] < 0) return fmt::format("class {} is below 0.", cls);
  if (values[0] >= class_count)
    return fmt::format("class {} is not below nc = {}.", cls, class_count);
  for (std::size_t i = 1; i < kColumns; ++i) {
    if (!(values[i] >= kCoordinateMin && values[i] <= kCoordinateMax)) {
      return fmt::format("{} = {} is not within 0..1. Coordinates are fractions of the image.",
                         kColumnNames[i], printable(fields.columns[i], 40));
    }
  }
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
    if (fields.count == 0) continue;
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
