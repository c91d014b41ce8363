"""What is for sale and for how much: list prices, the price of bitcoin, the tariff, and the catalogue made of them."""
