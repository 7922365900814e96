// Which action a player means by the keys and buttons that are held.

const KEYS = {
  ArrowRight: "RIGHT",
  ArrowLeft: "LEFT",
  ArrowUp: "UP",
  ArrowDown: "DOWN",
  KeyD: "RIGHT",
  KeyA: "LEFT",
  KeyW: "UP",
  KeyS: "DOWN",
  Space: "ACTION_JUMP",
  KeyX: "ACTION_PRIMARY",
  KeyZ: "ACTION_SECONDARY",
};
const SIGNS = { RIGHT: "→", LEFT: "←", UP: "↑", DOWN: "↓", ACTION_JUMP: "jump" };

const parts = (name) => name.split("+").filter((part) => part !== "NOOP");

// The names of all buttons that the actions know.
export function buttonsOf(actions) {
  return [...new Set(actions.flatMap(parts))];
}

export function labelOf(name) {
  return parts(name)
    .map((part) => SIGNS[part] ?? part.replace("ACTION_", "").toLowerCase())
    .join(" ");
}

// The button of a key event's code; digits choose an action by its number, from 1.
export function buttonOf(code, actions) {
  const digit = /^(?:Digit|Numpad)([1-9])$/.exec(code);
  if (digit) return actions[digit[1] - 1] ?? null;
  const button = KEYS[code] ?? null;
  return buttonsOf(actions).includes(button) ? button : null;
}

// Index of the action with the most of the held buttons, the latest ones first; null if no action has any of them.
export function chooseAction(held, actions) {
  let best = null;
  let bestScore = 0;
  for (const [index, name] of actions.entries()) {
    const own = parts(name);
    const places = held.includes(name) ? [held.indexOf(name)] : own.map((part) => held.indexOf(part));
    if (!places.length || Math.min(...places) < 0) continue;
    const score = own.length * 1000 + Math.max(...places) + 1;
    if (score > bestScore) [best, bestScore] = [index, score];
  }
  return best;
}
