// What a program may rely on. It compiles, under --strict, as long as that is so.
import type { components, operations, paths } from "./api";

type Schemas = components["schemas"];
type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const holds = <_ extends true>(): void => undefined;

// What is optional may be left out, be it given a value by the service or none.
export const least: Schemas["OrderBody"] = { asset_id: "BTC", order_type: "MARKET_BUY", quantity: "0.01" };
export const most: Schemas["OrderBody"] = {
  ...least,
  client_order_id: null,
  price: null,
  slippage_bps: 50,
  user_id: null,
};
export const withoutParameters: operations["listOrders"]["parameters"] = {};
export const withoutHeaders: operations["submitOrder"]["parameters"] = {};
export const fieldError: Schemas["FieldError"] = { field: "quantity", rule: "must be there" };

// What may be null is nullable; what may not is not.
holds<Equal<Schemas["Order"]["average_price"], string | null>>();
holds<Equal<Schemas["Order"]["client_order_id"], string | null>>();
holds<Equal<Schemas["Order"]["reason_code"], Schemas["ReasonCode"] | null>>();
holds<Equal<Schemas["Page"]["next_cursor"], string | null>>();
holds<Equal<Schemas["Order"]["fee"], string>>();
holds<Equal<Schemas["Order"]["version"], number>>();

// A call and its answers are found by their names.
type Submit = paths["/orders"]["post"]["responses"];
holds<Equal<Submit[201]["content"]["application/json"], Schemas["Order"]>>();
holds<Equal<Submit[202]["content"]["application/json"], Schemas["Order"]>>();

// A problem is told from the others by its code, and then has its own members.
type SubmitProblem = Submit[409 | 422]["content"]["application/problem+json"];
export function said(problem: SubmitProblem): string {
  switch (problem.code) {
    case "malformed-json":
    case "invalid-request":
      return problem.errors.map((error) => `${error.field} ${error.rule}: ${error.got ?? "nothing"}`).join();
    case "keys-disagree":
      return problem.order_ids.join();
    default:
      return `${problem.title}: ${problem.order_id satisfies string}`;
  }
}
