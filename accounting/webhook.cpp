// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/webhook.h"

#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "accounting/digest.h"
#include "accounting/posting.h"

namespace accounting {
namespace {

constexpr std::size_t kHeaderLengthMax = 1'024;
constexpr std::size_t kBodyLengthMax = 65'536;
constexpr std::size_t kNameLengthMax = 100;

struct Signature {
  std::string timestamp;  // As it was written: that is what was signed.
  UtcSeconds when = 0;
  std::vector<std::string> digests;
};

std::optional<Signature> read_header(std::string_view header) {
  if (header.size() > kHeaderLengthMax) return std::nullopt;
  Signature signature;
  while (!header.empty()) {
    const std::size_t comma = header.find(',');
    const std::string_view item = header.substr(0, comma);
    header.remove_prefix(comma == std::string_view::npos ? header.size() : comma + 1);
    const std::size_t equals = item.find('=');
    if (equals == std::string_view::npos) return std::nullopt;
    const std::string_view key = item.substr(0, equals);
    const std::string_view value = item.substr(equals + 1);
    if (key == "v1") signature.digests.emplace_back(value);
    if (key != "t") continue;  // Other schemes may stand beside ours.
    const char* end = value.data() + value.size();
    const auto [stop, fault] = std::from_chars(value.data(), end, signature.when);
    const bool is_second = !signature.timestamp.empty();
    if (fault != std::errc{} || stop != end || signature.when < 0 || is_second) return std::nullopt;
    signature.timestamp = value;
  }
  if (signature.timestamp.empty() || signature.digests.empty()) return std::nullopt;
  return signature;
}

std::string digest_of(std::string_view key, std::string_view timestamp, std::string_view body) {
  return hmac_sha256_hex(key, std::string(timestamp) + "." + std::string(body));
}

bool is_reference(const std::string& text) {
  return !text.empty() && text.size() <= kNameLengthMax && is_id(text);
}

bool is_currency(const std::string& text) {
  return text.size() == 3 && text.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ") == text.npos;
}

std::optional<PaymentEvent> read_body(std::string_view body) {
  if (body.size() > kBodyLengthMax) return std::nullopt;
  const auto json = nlohmann::json::parse(body, nullptr, false);
  if (!json.is_object()) return std::nullopt;
  const auto text = [](const nlohmann::json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  PaymentEvent event;
  event.id = text(json, "id");
  event.type = text(json, "type");
  if (!is_reference(event.id) || !is_reference(event.type)) return std::nullopt;
  const bool is_reversal = event.type == "payment.refunded" || event.type == "payment.charged_back";
  if (event.type != "payment.succeeded" && !is_reversal) return event;
  const auto data = json.find("data");
  if (data == json.end() || !data->is_object()) return std::nullopt;
  event.payment = text(*data, "payment");
  event.currency = text(*data, "currency");
  if (is_reversal) {
    event.reversal = text(*data, "reversal");
  } else {
    event.fund = text(*data, "fund");
    event.quote = text(*data, "quote");
  }
  const auto minor = data->find("amount_minor");
  if (minor == data->end() || !minor->is_number_integer()) return std::nullopt;
  // An unsigned number above 2^63 - 1 would turn negative.
  event.minor = minor->get<std::int64_t>();
  if (!is_reference(event.payment) || !is_currency(event.currency) || event.minor <= 0) {
    return std::nullopt;
  }
  const bool is_whole = is_reversal ? is_reference(event.reversal)
                                    : is_fund(event.fund) && is_run(event.quote);
  if (!is_whole) return std::nullopt;
  return event;
}

}  // namespace

std::string sign_webhook(std::string_view key, std::string_view body, UtcSeconds now) {
  const std::string timestamp = std::to_string(now);
  return "t=" + timestamp + ",v1=" + digest_of(key, timestamp, body);
}

std::variant<PaymentEvent, WebhookFault> read_webhook(const Claim& message, std::string_view key,
                                                      std::int64_t window_s, UtcSeconds now) {
  const auto signature = read_header(message.signature);
  if (!signature || key.empty()) return WebhookFault::kMalformedHeader;
  const std::string expected = digest_of(key, signature->timestamp, message.body);
  bool is_signed = false;
  for (const std::string& digest : signature->digests) {
    is_signed |= equal_in_constant_time(digest, expected);
  }
  if (!is_signed) return WebhookFault::kForged;
  if (signature->when < now - window_s || signature->when > now + window_s) {
    return WebhookFault::kOutsideWindow;
  }
  auto event = read_body(message.body);
  if (!event) return WebhookFault::kMalformedBody;
  return *event;
}

Told SignedWebhook::read(const Claim& claim, UtcSeconds now) const {
  auto read = read_webhook(claim, key_, window_s_, now);
  if (auto* event = std::get_if<PaymentEvent>(&read)) return std::move(*event);
  using Why = NotTaken::Why;
  switch (std::get<WebhookFault>(read)) {
    case WebhookFault::kMalformedHeader:
      return NotTaken{Why::kNotMine, "the signature header is not \"t=SECONDS,v1=HEX\""};
    case WebhookFault::kOutsideWindow:
      return NotTaken{Why::kRefused, "the message was signed too long ago, or in the future: a "
                                     "replay, or a clock is off"};
    case WebhookFault::kForged:
      return NotTaken{Why::kRefused, "the signature does not fit the body"};
    case WebhookFault::kMalformedBody:
      break;
  }
  return NotTaken{Why::kUnreadable,
                  "the body is no payment message (docs/formats/payment.md)"};
}

}  // namespace accounting
