// What must not compile: the compiler has to complain of every line that is marked.
import type { components } from "./api";

type Schemas = components["schemas"];
declare const order: Schemas["Order"];
declare const problem: Schemas["InvalidRequestProblem"] | Schemas["OrderNotFoundProblem"];

export const incomplete: Schemas["OrderBody"] = { asset_id: "BTC", order_type: "MARKET_BUY" }; // wrong
export const aNumber: Schemas["OrderBody"] = { asset_id: "BTC", order_type: "MARKET_BUY", quantity: 0.01 }; // wrong
export const unknownType: Schemas["OrderType"] = "STOP_BUY"; // wrong
export const unknownStatus: boolean = order.status === "DONE"; // wrong
export const nullable: string = order.average_price; // wrong
export const ofAnother = problem.errors; // wrong
