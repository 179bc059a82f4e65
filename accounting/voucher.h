// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/voucher.h
//
// A voucher: GPU-hours that an admin gives away as a code, good once (docs/formats/payment.md). Pure:
// that it is used once is the ledger's business, whose grant bears the voucher's id.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "accounting/payment_provider.h"

namespace accounting {

struct Voucher {
  std::string id;          // 1 to 64 of a-z A-Z 0-9 . _ -
  Amount amount;           // > 0
  UtcSeconds expires = 0;  // 0: never.
  std::string fund;        // Empty: whoever has the code.
};

enum class VoucherFault { kMalformed, kForged, kExpired };

// "TYV1.<id>.<mGPUs>.<expires>.<fund>.<64 hexadecimal digits>", the fund with ':' as '~'. Nothing
// where a part is not what the format allows.
[[nodiscard]] std::optional<std::string> write_voucher(const Voucher& voucher,
                                                       std::string_view key);
// Takes blanks around the code. Whatever it is given, it never throws.
[[nodiscard]] std::variant<Voucher, VoucherFault> read_voucher(std::string_view code,
                                                               std::string_view key,
                                                               UtcSeconds now);

// Vouchers that were made with the key.
class Vouchers final : public PaymentProvider {
 public:
  explicit Vouchers(std::string key) : key_(std::move(key)) {}
  [[nodiscard]] std::string name() const override { return "voucher"; }
  [[nodiscard]] Told read(const Claim& claim, UtcSeconds now) const override;

 private:
  std::string key_;
};

}  // namespace accounting
